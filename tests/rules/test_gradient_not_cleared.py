import numpy as np
import pytest
import torch
from loops import data, judged, net, only, watched
from synthetic import TRIVIAL, Synthetic, falling
from torch import nn

from gradscope.diagnose.learning import loss_curve
from gradscope.diagnose.rule import NotApplicable, Passed, Undecided
from gradscope.rules.gradient_not_cleared import GradientNotCleared, relapse

X, Y = data()
cross_entropy = nn.functional.cross_entropy


def synthetic(lefts, loss=None, steps=100):
    """One backward and one step a step; ``lefts[i]`` is what the i-th backward found."""
    made = Synthetic(steps)
    made.loss(falling(steps) if loss is None else loss)
    for step, left in enumerate(lefts):
        detail = {"left": {"0": left}} if left in ("none", "zero", "carried") else None
        if left == "called":
            made.event(step, "zero-grad", optimizer=0)
        made.event(step, "backward", detail=detail)
        made.event(step, "step", optimizer=0, site="train.py:9")
    return made


def check(made):
    return judged(GradientNotCleared, made.build())


@pytest.mark.parametrize(("carried", "found"), [(25, True), (24, False)])
def test_the_share_of_steps(carried, found):
    outcome = check(
        synthetic(["called"] + ["carried"] * carried + ["called"] * (99 - carried), steps=100)
    )
    # the first step follows no other: 99 are judged, and 25 of them are the first quarter
    if found:
        assert only(outcome).kind == "seldom"
    else:
        assert isinstance(outcome, Passed)
        assert outcome.margin == pytest.approx(0.25 / (carried / 99))


@pytest.mark.parametrize(("known", "kind"), [(10, "finding"), (9, "undecided")])
def test_at_least_ten_steps(known, kind):
    outcome = check(synthetic(["unknown"] + ["carried"] * known, steps=known + 1))
    if kind == "finding":
        assert only(outcome).kind == "never"
    else:
        assert isinstance(outcome, Undecided)


def back_up(rise, steps=100):
    """A loss that falls to 0.2 of the trivial one and ends ``rise`` trivial losses above that."""
    half = steps // 2
    down, up = np.linspace(1, 0.2, half), np.linspace(0.2, 0.2 + rise, half - 10)
    return TRIVIAL * np.concatenate([down, up, np.full(10, 0.2 + rise)])


@pytest.mark.parametrize(
    ("rise", "severity"),
    [(0.0, "note"), (0.28, "note"), (0.33, "warning"), (0.98, "warning"), (1.1, "critical")],
)
def test_severity_by_the_relapse_of_the_loss(rise, severity):
    finding = only(check(synthetic(["carried"] * 100, back_up(rise))))
    assert finding.severity == severity
    assert finding.confidence == "certain"


@pytest.mark.parametrize(("level", "severity"), [(1.0, "warning"), (0.5, "note")])
def test_a_loss_that_never_fell_has_nothing_to_rise_from(level, severity):
    flat = np.full(100, level * TRIVIAL)
    assert only(check(synthetic(["carried"] * 100, flat))).severity == severity


def test_a_loss_that_ends_in_nan_is_critical():
    loss = falling()
    loss[90:] = np.nan
    assert only(check(synthetic(["carried"] * 100, loss))).severity == "critical"


def test_relapse_against_a_slow_formula():
    made = synthetic(["called"] * 100, back_up(0.5))
    curve = loss_curve(made.build())
    means = [curve.loss[i : i + 5].mean() for i in range(96)]
    assert relapse(curve) == pytest.approx((means[-1] - min(means)) / TRIVIAL)


def test_a_training_without_backward_is_not_applicable():
    made = Synthetic(20)
    made.loss(falling(20))
    for step in range(20):
        made.event(step, "step", optimizer=0)
    assert isinstance(check(made), NotApplicable)


# ---------------------------------------------------------------------- real loops


def clear_call(model, optimizer):
    optimizer.zero_grad()


def clear_call_to_zero(model, optimizer):
    optimizer.zero_grad(set_to_none=False)


def clear_none(model, optimizer):
    for parameter in model.parameters():
        parameter.grad = None


def clear_zero(model, optimizer):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()


def clear_through_data(model, optimizer):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()


def clear_data(model, optimizer):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data = torch.zeros_like(parameter.grad)


def clear_model(model, optimizer):
    model.zero_grad()


def clear_model_to_zero(model, optimizer):
    model.zero_grad(set_to_none=False)


CLEARS = [
    clear_call,
    clear_call_to_zero,
    clear_none,
    clear_zero,
    clear_through_data,
    clear_data,
    clear_model,
    clear_model_to_zero,
]


def loop(clear, before=True, micro=1, make=torch.optim.Adam):
    model = net()
    optimizer = make(model.parameters(), lr=1e-2)

    def step(_):
        if before:
            clear(model, optimizer)
        for _ in range(micro):
            (cross_entropy(model(X), Y) / micro).backward()
        optimizer.step()
        if not before:
            clear(model, optimizer)

    return model, step


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("clear", CLEARS)
def test_every_way_to_clear(tmp_path, clear, before):
    model, step = loop(clear, before)
    recording = watched(tmp_path / "run", [model], step, 30)
    assert isinstance(judged(GradientNotCleared, recording), Passed)


def test_accumulation(tmp_path):
    model, step = loop(clear_none, micro=4)
    assert isinstance(
        judged(GradientNotCleared, watched(tmp_path / "run", [model], step, 30)), Passed
    )


@pytest.mark.parametrize("micro", [1, 3])
def test_no_clearing(tmp_path, micro):
    model, step = loop(lambda *_: None, micro=micro, make=lambda p, lr: torch.optim.SGD(p, lr=0.5))
    finding = only(judged(GradientNotCleared, watched(tmp_path / "run", [model], step, 100)))
    assert finding.kind == "never"
    assert finding.location.file.endswith("test_gradient_not_cleared.py")


def test_what_cannot_be_told_is_undecided(tmp_path):
    """Between sampled steps no gradient is read: zeroed by hand, they may be either."""
    model, step = loop(clear_zero)
    recording = watched(tmp_path / "run", [model], step, 60, every=20)
    assert isinstance(judged(GradientNotCleared, recording), Undecided)


def test_gradients_that_are_none_need_no_reading(tmp_path):
    model, step = loop(clear_none)
    recording = watched(tmp_path / "run", [model], step, 60, every=20)
    assert isinstance(judged(GradientNotCleared, recording), Passed)


def test_a_tenth_of_the_steps_is_enough(tmp_path):
    model, step = loop(lambda *_: None)
    recording = watched(tmp_path / "run", [model], step, 110, every=10)
    assert only(judged(GradientNotCleared, recording)).kind == "never"


def test_clearing_on_every_fourth_step_while_stepping_on_each(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(number):
        if number % 4 == 0:
            optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        optimizer.step()

    finding = only(judged(GradientNotCleared, watched(tmp_path / "run", [model], step)))
    assert finding.kind == "seldom"
    assert finding.evidence[0].value == pytest.approx(0.75, abs=0.02)


def test_a_gan_clears_the_critic_after_the_generators_backward(tmp_path):
    generator, critic = nn.Linear(4, 2), nn.Linear(2, 1)
    of_g = torch.optim.Adam(generator.parameters())
    of_c = torch.optim.Adam(critic.parameters())

    def step(_):
        fake = generator(torch.randn(16, 4))
        of_c.zero_grad()
        (critic(torch.randn(16, 2)).mean() - critic(fake.detach()).mean()).backward()
        of_c.step()
        of_g.zero_grad()
        critic(fake).mean().backward()
        of_g.step()

    recording = watched(tmp_path / "run", [generator, critic], step)
    assert isinstance(judged(GradientNotCleared, recording), Passed)


def hand_written(clear):
    model = net()

    def step(_):
        cross_entropy(model(X), Y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
        clear(model, None)

    return model, step


@pytest.mark.parametrize("clear", [clear_none, clear_zero, clear_model])
def test_a_hand_written_update_that_clears(tmp_path, clear):
    model, step = hand_written(clear)
    recording = watched(tmp_path / "run", [model], step, 30)
    assert len(recording.steps) == 30
    assert isinstance(judged(GradientNotCleared, recording), Passed)


def test_a_hand_written_update_that_does_not_clear(tmp_path):
    model, step = hand_written(lambda *_: None)
    recording = watched(tmp_path / "run", [model], step, 30)
    assert len(recording.steps) == 30
    finding = only(judged(GradientNotCleared, recording))
    assert finding.kind == "never"
    assert "p.grad = None" in finding.causes[0]


def test_lbfgs(tmp_path):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(X), Y)
        loss.backward()
        return loss

    recording = watched(tmp_path / "run", [model], lambda _: optimizer.step(closure), 15)
    assert isinstance(judged(GradientNotCleared, recording), Passed)
