"""When steps are recorded."""

import pytest

from gradscope.observe.cadence import (
    BURST_SHARE,
    BURST_STEPS,
    FULL_STEPS,
    GRACE_EVERY,
    GRACE_SECONDS,
    Cadence,
    Plan,
)


def _run(cadence, steps, cost, first=0, step_time=0.01):
    """Play steps through a cadence; returns the plans and the share of the time spent."""
    plans, own, total = [], 0.0, 0.0
    for step in range(first, first + steps):
        plan = cadence.plan(step)
        spent = cost(plan)
        cadence.spent(plan, spent, step_time + spent)
        plans.append(plan)
        if step >= first + FULL_STEPS:
            own, total = own + spent, total + step_time + spent
    return plans, own / total if total else 0.0


@pytest.mark.parametrize(
    ("every", "activations", "modules"), [(1, None, 10), (7, None, 70), (3, 4, 4)]
)
def test_every_k_depends_on_the_step_number_alone(every, activations, modules):
    for step_cost in (0.0, 1.0):
        plans, _ = _run(
            Cadence(every, activations, 0.03, 5), 150, lambda _p, c=step_cost: c, first=5
        )
        assert [i for i, p in enumerate(plans) if p.parameters] == list(range(0, 150, every))
        assert [i for i, p in enumerate(plans) if p.modules] == list(range(0, 150, modules))


def test_without_a_budget_every_step_is_recorded_in_full():
    plans, _ = _run(Cadence(None, None, None, 0), 30, lambda _p: 1.0)
    assert set(plans) == {Plan(True, True)}


@pytest.mark.parametrize("expensive", [0.0005, 0.005, 0.05])
def test_the_budget_is_kept(expensive):
    def cost(plan):
        return 1e-5 + expensive * (plan.parameters + 3 * plan.modules)

    plans, share = _run(Cadence(None, None, 0.03, 0), 4000, cost)
    assert all(p == Plan(True, True) for p in plans[:FULL_STEPS])
    assert share <= 0.032
    assert any(p.modules for p in plans[100:]), "a promise of low cost is not kept by looking away"


def test_a_short_training_of_short_steps_is_looked_at_often_enough():
    def cost(plan):
        return 4e-4 + 1e-3 * (plan.parameters + plan.modules)

    plans, _ = _run(Cadence(None, None, 0.03, 0), 300, cost, step_time=0.001)
    assert sum(p.parameters for p in plans) >= 50
    assert sum(p.modules for p in plans) >= 25
    assert not any(p.parameters for n, p in enumerate(plans) if n >= FULL_STEPS and n % GRACE_EVERY)


@pytest.mark.parametrize("steps", [2_000, 20_000])
def test_the_grace_is_bounded_and_paid_back(steps):
    def cost(plan):
        return 1e-5 + 5e-3 * (plan.parameters + plan.modules)

    _, share = _run(Cadence(None, None, 0.03, 0), steps, cost)
    assert share * steps * 0.01 <= 0.03 * steps * 0.01 * (1 + 1e-6) + 1.2 * GRACE_SECONDS
    assert share <= 0.032 or steps < 20_000


@pytest.mark.parametrize(("following", "most"), [(0.015, 0.031), (0.025, 0.031), (0.1, 0.107)])
def test_what_following_takes_is_left_out_of_what_sampling_may_take(following, most):
    def cost(plan):
        return 0.01 * following + 5e-4 * (plan.parameters + 3 * plan.modules)

    plans, share = _run(Cadence(None, None, 0.03, 0), 8000, cost)
    assert share / (1 - share) <= most
    assert sum(p.modules for p in plans[100:]) >= 2


def test_the_budget_is_kept_when_steps_become_shorter():
    cadence = Cadence(None, None, 0.03, 0)
    own = total = 0.0
    for step in range(4000):
        length = 0.02 if step < 2000 else 0.002
        plan = cadence.plan(step)
        spent = 1e-5 + 1e-3 * (plan.parameters + plan.modules)
        cadence.spent(plan, spent, length + spent)
        if step >= 2200:
            own, total = own + spent, total + length + spent
    assert own / total <= 0.035


def test_an_alarm_records_a_burst_but_not_for_ever():
    cadence = Cadence(50, None, None, 0)
    full = 0
    for step in range(3000):
        plan = cadence.plan(step)
        full += plan.modules
        cadence.burst(step)
    assert full <= 3000 / BURST_SHARE + BURST_STEPS + 3000 / 500 + 1
    assert full > BURST_STEPS
