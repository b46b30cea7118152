import math

import pytest
import torch
from loops import data, judged, net, only, watched
from synthetic import TRIVIAL, Synthetic, falling
from torch import nn

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.stale_gradient import StaleGradient

X, Y = data()
cross_entropy = nn.functional.cross_entropy
clip = nn.utils.clip_grad_norm_


def synthetic(faulty, steps=100, loss=TRIVIAL):
    """``zero_grad`` between backward and step on the first ``faulty`` steps."""
    made = Synthetic(steps)
    made.loss(loss)
    for step in range(steps):
        made.event(step, "backward")
        if step < faulty:
            made.event(step, "zero-grad", optimizer=0, site="train.py:8")
        detail = {"gradient": "none"} if step < faulty else None
        made.event(step, "step", optimizer=0, detail=detail)
        made.event(step, "zero-grad", optimizer=0)
    return judged(StaleGradient, made.build())


@pytest.mark.parametrize(
    ("faulty", "steps", "severity"),
    [(100, 100, "critical"), (51, 100, "warning"), (50, 100, "note"), (10, 100, "note"),
     (9, 100, None), (5, 20, "note"), (4, 20, None)],
)  # fmt: skip
def test_share_and_number_of_steps(faulty, steps, severity):
    outcome = synthetic(faulty, steps, falling(steps))
    if severity is None:
        assert isinstance(outcome, Passed)
    else:
        finding = only(outcome)
        assert (finding.kind, finding.severity) == ("cleared", severity)
        assert str(finding.location) == "train.py:8"


@pytest.mark.parametrize(
    ("faulty", "severity"), [(51, "critical"), (50, "warning"), (10, "warning")]
)
def test_a_loss_that_does_not_fall_makes_it_worse(faulty, severity):
    assert only(synthetic(faulty)).severity == severity


@pytest.mark.parametrize(("steps", "outcome"), [(4, Undecided), (5, Passed)])
def test_at_least_five_steps(steps, outcome):
    assert isinstance(synthetic(0, steps), outcome)


def test_gradients_that_come_from_elsewhere():
    made = Synthetic(20)
    made.loss(TRIVIAL)
    for step in range(20):
        made.event(step, "step", optimizer=0, detail={"gradient": "same"})
    assert isinstance(judged(StaleGradient, made.build()), NotApplicable)


# ---------------------------------------------------------------------- real loops


def ran(folder, body, lr=0.1, steps=30, **options):
    """What GS506 says of a loop whose body gets model, optimizer and the loss."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step(number):
        body(model, optimizer, lambda: cross_entropy(model(X), Y), number)

    return judged(StaleGradient, watched(folder / "run", [model], step, steps, **options))


def kinds(outcome):
    return [f.kind for f in outcome.findings] if isinstance(outcome, Findings) else outcome


def cleared(model, optimizer, loss, _):
    loss().backward()
    optimizer.zero_grad()
    optimizer.step()


def cleared_to_zero(model, optimizer, loss, _):
    loss().backward()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()


def cleared_by_the_model(model, optimizer, loss, _):
    loss().backward()
    model.zero_grad()
    optimizer.step()


def rotated(model, optimizer, loss, _):
    optimizer.zero_grad()
    optimizer.step()
    loss().backward()


def twice(model, optimizer, loss, _):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    optimizer.step()


def clip_after(model, optimizer, loss, _):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    clip(model.parameters(), 0.1)


def clip_before(model, optimizer, loss, _):
    optimizer.zero_grad()
    value = loss()
    clip(model.parameters(), 0.1)
    value.backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("body", "kind"),
    [(cleared, "cleared"), (cleared_to_zero, "cleared"), (cleared_by_the_model, "cleared"),
     (rotated, "cleared"), (twice, "no-backward"), (clip_after, "clip-after-step"),
     (clip_before, "clip-before-backward")],
)  # fmt: skip
def test_faults(tmp_path, body, kind):
    finding = only(ran(tmp_path, body))
    assert finding.kind == kind
    assert finding.location.file.endswith("test_stale_gradient.py")


def test_a_clip_before_unscale(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def body(model, optimizer, loss, _, unscale=False):
        optimizer.zero_grad()
        scaler.scale(loss()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        clip(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    assert kinds(ran(tmp_path / "a", body)) == ["clip-before-unscale"]
    good = ran(tmp_path / "b", lambda *given: body(*given, unscale=True))
    assert isinstance(good, Passed)


# ---------------------------------------------------------------------- loops in order


def plain(model, optimizer, loss, _):
    optimizer.zero_grad()
    loss().backward()
    clip(model.parameters(), 1.0)
    optimizer.step()


def clear_behind(model, optimizer, loss, _):
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def clear_twice(model, optimizer, loss, _):
    model.zero_grad()
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def accumulate(model, optimizer, loss, number):
    (loss() / 4).backward()
    if number % 4 == 3:
        clip(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def norm_for_the_log(model, optimizer, loss, _):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    clip(model.parameters(), math.inf)


def by_autograd_grad(model, optimizer, loss, _):
    parameters = list(model.parameters())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(loss(), parameters), strict=True
    ):
        parameter.grad = gradient
    optimizer.step()


def a_rare_second_step(model, optimizer, loss, number):
    plain(model, optimizer, loss, number)
    if number % 12 == 11:
        optimizer.step()


@pytest.mark.parametrize(
    "body",
    [
        plain,
        clear_behind,
        clear_twice,
        accumulate,
        norm_for_the_log,
        by_autograd_grad,
        a_rare_second_step,
    ],
)
def test_loops_in_order(tmp_path, body):
    assert not isinstance(ran(tmp_path, body, steps=60), Findings)


def test_lbfgs(tmp_path):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(X), Y)
        loss.backward()
        return loss

    recording = watched(tmp_path / "run", [model], lambda _: optimizer.step(closure), 15)
    assert isinstance(judged(StaleGradient, recording), Passed)


def test_two_optimizers_whose_calls_interleave(tmp_path):
    """Both backwards, then clip and step of one, then clip and step of the other."""
    first, second = net(), net()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second)]

    def step(_):
        for optimizer in optimizers:
            optimizer.zero_grad()
        cross_entropy(first(X), Y).backward()
        cross_entropy(second(X), Y).backward()
        for model, optimizer in zip((first, second), optimizers, strict=True):
            clip(model.parameters(), 0.1)
            optimizer.step()

    assert isinstance(
        judged(StaleGradient, watched(tmp_path / "run", [first, second], step, 30)), Passed
    )


def test_a_gan_that_clears_the_critic_before_the_generators_step(tmp_path):
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
        critic.zero_grad()
        of_g.step()

    recording = watched(tmp_path / "run", [generator, critic], step, 30)
    assert isinstance(judged(StaleGradient, recording), Passed)
