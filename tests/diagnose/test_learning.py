import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Synthetic, falling

from gradscope.diagnose.learning import falls, gate, loss_curve


def learning(values, baseline=TRIVIAL, **kwargs):
    made = Synthetic(len(values))
    made.loss(values, baseline, **kwargs)
    return gate(made.build())


def flat(level, steps=100):
    return np.full(steps, level * TRIVIAL)


@pytest.mark.parametrize(
    ("level", "steps", "state"),
    [
        (0.96, 49, "stuck"),
        (0.94, 49, "weak"),
        (0.91, 49, "weak"),
        (0.89, 49, "learning"),
        (0.96, 50, "stuck"),
        (0.94, 50, "weak"),
        (0.71, 50, "weak"),
        (0.69, 50, "learning"),
        (0.01, 50, "learning"),
    ],
)
def test_the_limits_of_the_excess(level, steps, state):
    assert learning(flat(level, steps)).state == state


@pytest.mark.parametrize(("steps", "state"), [(19, "early"), (20, "stuck")])
def test_nothing_is_said_before_20_steps(steps, state):
    found = learning(flat(1.0, steps))
    assert found.state == state
    assert found.so_far


def test_excess_is_the_mean_of_the_last_losses_over_the_trivial_one():
    values = np.concatenate([flat(1.0, 95), flat(0.5, 5)])
    found = learning(values)
    assert found.excess == pytest.approx(0.5)
    assert found.first_excess == pytest.approx(1.0)
    assert found.last == pytest.approx(0.5 * TRIVIAL)


@pytest.mark.parametrize("share", [1e-4, 1.0, 1e4])
def test_a_factor_around_the_loss_changes_nothing(share):
    sick, well = learning(flat(1.0), share=share), learning(falling(), share=share)
    assert (sick.state, well.state) == ("stuck", "learning")
    assert sick.excess == pytest.approx(1.0)


@pytest.mark.parametrize(("negative", "basis"), [(11, "trend"), (10, "baseline")])
def test_a_loss_of_another_sign_than_its_known_term_is_not_measured_by_it(negative, basis):
    """An actor-critic: the critic's error stays, the sum of both parts falls below zero."""
    made = Synthetic(100)
    made.loss(flat(1.1))
    for row in made._losses[-negative:]:
        row["share"] = -0.5
    for step, row in enumerate(made._steps):
        row["loss"] = 0.2 - 0.004 * step
    found = gate(made.build())
    assert found.basis == basis
    assert found.harmed == (basis == "baseline")


def test_a_converged_start_is_learning():
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    assert learning(0.05 + noise).state == "learning"


def test_a_converged_start_without_a_baseline_is_unknown():
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    found = learning(0.5 + noise, None)
    assert (found.state, found.basis) == ("unknown", "trend")
    assert not found.harmed


def test_without_a_baseline_a_fall_is_learning_and_a_constant_is_stuck():
    assert learning(falling(), None).state == "learning"
    assert learning(np.full(100, 2.0), None).state == "stuck"


@pytest.mark.parametrize(("level", "state"), [(14.1, "diverged"), (13.9, "unknown")])
def test_without_a_baseline_a_rise_must_be_fourteenfold(level, state):
    assert learning(np.repeat([1.0, level], 50), None).state == state


def test_a_loss_far_above_the_trivial_one_that_still_falls_is_slow():
    rng = np.random.default_rng(0)
    values = np.linspace(1.3, 0.95, 100) * TRIVIAL + rng.normal(0, 0.01, 100)
    assert learning(values).state == "slow"
    assert learning(flat(1.0) + rng.normal(0, 0.01, 100)).state == "stuck"


def test_a_language_model_that_has_removed_a_fifth_and_falls_is_learning():
    rng = np.random.default_rng(0)
    values = np.linspace(1.05, 0.78, 100) * 6.0 + rng.normal(0, 0.02, 100)
    assert learning(values, 6.0).state == "learning"


def test_one_that_climbs_back_is_found_again():
    values = np.concatenate([falling(60), flat(1.0, 60)])
    assert learning(values).state == "stuck"


@pytest.mark.parametrize(("level", "state"), [(1.41, "diverged"), (1.39, "stuck")])
def test_diverged_is_above_the_trivial_and_the_first_loss(level, state):
    values = np.concatenate([flat(0.98, 60), flat(level, 60)])
    assert learning(values).state == state


def test_a_loss_that_ends_in_nan_has_diverged():
    values = np.concatenate([falling(60), np.full(60, math.nan)])
    assert learning(values).state == "diverged"


@pytest.mark.parametrize(("warm", "state"), [(80, "early"), (79, "stuck")])
def test_the_gate_waits_for_the_warm_up(warm, state):
    made = Synthetic(100)
    made.loss(flat(1.0))
    made.each_step(lr=[[min(1.0, (i + 1) / warm)] for i in range(100)])
    assert gate(made.build()).state == state


def test_two_optimizers_with_losses_of_their_own_are_not_judged():
    made = Synthetic(100)
    made.loss(flat(1.0))
    made.each_step(
        optimizer=[i % 2 for i in range(100)], site=[f"gan.py:{10 + i % 2}" for i in range(100)]
    )
    found = gate(made.build())
    assert (found.state, found.harmed) == ("unknown", False)


def test_two_optimizers_behind_one_loss_are():
    made = Synthetic(100)
    made.loss(flat(1.0))
    made.each_step(optimizer=[i % 2 for i in range(100)])
    assert gate(made.build()).state == "stuck"


def test_equal_targets_give_no_baseline():
    found = learning(flat(1.0), 0.0)
    assert found.basis == "trend"


def test_no_loss_at_all():
    found = gate(Synthetic(100).build())
    assert (found.state, found.basis) == ("unknown", "none")


def test_the_curve_is_read_on_every_step_where_one_factor_stands_around_the_loss():
    made = Synthetic(100, sampled=range(0, 100, 10))
    made.loss(falling(), share=3.0)
    curve = loss_curve(made.build())
    assert len(curve.excess) == 100
    assert curve.baseline_as_loss == pytest.approx(3 * TRIVIAL)
    np.testing.assert_allclose(curve.excess, falling() / TRIVIAL)


@pytest.mark.parametrize(("slope", "expected"), [(-4.5, True), (-2.0, False), (4.5, False)])
def test_falls_counts_standard_errors(slope, expected):
    # alternating residuals: their size and the slope's standard error are known by formula
    n = 50
    at = np.arange(n) - (n - 1) / 2
    noise = 0.1 * (-1.0) ** np.arange(n)
    error = math.sqrt((noise**2).sum() / (n - 2) / (at**2).sum())
    half = 2.0 + slope * error * at + noise
    assert falls(np.concatenate([np.full(n, 2.0), half])) is expected


def test_a_fall_of_less_than_two_percent_is_none():
    quiet = np.concatenate([np.full(50, 2.0), np.linspace(2.0, 1.965, 50)])
    clear = np.concatenate([np.full(50, 2.0), np.linspace(2.0, 1.95, 50)])
    assert not falls(quiet)
    assert falls(clear)
