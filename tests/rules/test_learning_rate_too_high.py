import math

import numpy as np
import pytest
import torch
from moving import Moving
from synthetic import TRIVIAL, Synthetic, falling
from torch import nn
from torch.nn import functional

from gradscope.diagnose.precedence import arbitrate
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.learning_rate_too_high import LearningRateTooHigh

rule = LearningRateTooHigh()


def check(made):
    return rule.check(made.build(), LearningRateTooHigh.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def thrown(distance=3.0, peak=2.0, *, ratio=0.01, left=None, loss=None, steps=100):
    made = Moving(steps)
    made.way(distance, ratio)
    if left is not None:
        made.gradients(0.2, left=left)
    values = np.full(steps, TRIVIAL)
    values[5] = peak * TRIVIAL
    made.loss(values if loss is None else loss)
    return made


@pytest.mark.parametrize(("distance", "kind"), [(2.1, Findings), (1.9, Passed)])
def test_the_way_of_the_weights(distance, kind):
    assert isinstance(check(thrown(distance)), kind)


@pytest.mark.parametrize(("peak", "kind"), [(1.41, Findings), (1.39, Passed)])
def test_the_peak_of_the_loss(peak, kind):
    assert isinstance(check(thrown(peak=peak)), kind)


@pytest.mark.parametrize(("ratio", "kind"), [(0.51, Findings), (0.49, Passed)])
def test_one_step_of_half_the_size(ratio, kind):
    assert isinstance(check(thrown(peak=1.0, ratio=ratio)), kind)


@pytest.mark.parametrize(("left", "kind"), [(-0.12, Findings), (-0.08, Passed)])
def test_steps_past_the_bottom(left, kind):
    assert isinstance(check(thrown(peak=1.0, left=left)), kind)


@pytest.mark.parametrize(("left", "kind"), [(0.48, Findings), (0.52, Passed)])
def test_steps_that_leave_most_of_the_slope_are_small(left, kind):
    assert isinstance(check(thrown(left=left)), kind)


def test_a_loss_that_is_high_from_the_start_is_no_rise():
    loss = np.full(100, 5.0 * TRIVIAL)
    loss[5] = 6.0 * TRIVIAL
    assert isinstance(check(thrown(loss=loss)), Passed)
    loss[5] = 8.0 * TRIVIAL
    assert isinstance(check(thrown(loss=loss)), Findings)


def test_a_training_that_learns_is_quiet():
    values = falling()
    values[5] = 5 * TRIVIAL
    outcome = check(thrown(30.0, loss=values, ratio=0.9))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


def test_matrices_that_begin_at_zero_are_left_out():
    made = thrown()
    for row in made._updates:
        if row["step"] == 0:
            row["before_sq"] = 0.0
    assert isinstance(check(made), Undecided)


def test_a_run_that_ends_in_nan_is_judged_elsewhere():
    made = thrown()
    made.alarm(50)
    outcome = check(made)
    assert isinstance(outcome, Undecided)
    assert "GS102" in outcome.missing


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    loss = np.full(steps, 0.99 * TRIVIAL)
    loss[5] = 2 * TRIVIAL
    assert only(check(thrown(loss=loss, steps=steps))).severity == severity


def test_a_game_of_two_optimizers_is_undecided():
    made = thrown(ratio=0.9)
    made.each_step(
        optimizer=[i % 2 for i in range(100)], site=[f"gan.py:{i % 2 + 1}" for i in range(100)]
    )
    assert isinstance(check(made), Undecided)


def test_what_it_says():
    finding = only(check(thrown(3.0, 2.0)))
    assert finding.modules == ("0",)
    assert finding.parameters == ("0.weight",)
    assert finding.first_step == 5
    assert "3 times their own size" in finding.summary
    assert "2 times what a constant answer costs" in finding.summary


def diverging(end=None):
    made = thrown(50.0, loss=TRIVIAL * 1.05 ** np.arange(100), ratio=0.9)
    made.gradient(made.weight, 1.1 ** np.arange(100))
    made.way(50.0, 0.9)
    if end is not None:
        made.alarm(end)
    return made


def test_the_border_with_gs102():
    """Finite growth by the learning rate is GS401; growth up to a NaN is GS102."""
    recording = diverging().build()
    exploding = only(ExplodingGradient().check(recording, ExplodingGradient.options))
    assert exploding.kind == "learning-rate"
    mine = only(rule.check(recording, LearningRateTooHigh.options))
    assert (mine.kind, mine.severity) == ("diverging", "critical")
    standing, _ = arbitrate((exploding, mine))
    assert [f.code for f in standing] == ["GS401"]
    recording = diverging(99).build()
    exploding = only(ExplodingGradient().check(recording, ExplodingGradient.options))
    standing, _ = arbitrate((exploding, mine))
    assert [f.code for f in standing] == ["GS102"]


def test_without_updates_the_engine_leaves_it_undecided():
    made = Synthetic(60)
    made.loss(TRIVIAL)
    assert made.build().count("updates.distance_sq") == 0


def test_the_movement_of_a_real_training(tmp_path):
    """Oracle: distances and slopes from whole tensors, not from samples and sketches."""
    from gradscope.diagnose.movement import movement
    from gradscope.observe.observer import Observer
    from gradscope.recording.load import load_run
    from gradscope.recording.writer import Writer

    torch.manual_seed(0)
    model = nn.Linear(32, 8)
    x, y = torch.randn(256, 32), torch.randn(256, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    first = model.weight.detach().clone()
    gradients, updates = [], []
    writer = Writer(tmp_path / "run")
    observer = Observer([model], writer=writer, budget=None, every=1, activations_every=1)
    observer.attach()
    for _ in range(30):
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        before = model.weight.detach().clone()
        gradients.append(model.weight.grad.clone())
        optimizer.step()
        updates.append(model.weight.detach() - before)
    observer.detach()
    writer.close()
    moved = movement(load_run(tmp_path / "run"))
    way = float((model.weight.detach() - first).norm() / first.norm())
    assert moved.distance == pytest.approx(way, rel=1e-4)
    shares = [
        float((g1 * u).sum() / (g0 * u).sum())
        for g0, g1, u in zip(gradients, gradients[1:], updates, strict=False)
    ]
    # a sketch of 64 numbers: an inner product of vectors of one direction scatters by 1/8
    assert moved.carried == pytest.approx(float(np.median(shares)), abs=0.2)
    late = torch.stack(gradients[15:25]).flatten(1)
    agreement = float(late.sum(0).square().sum() / (10 * late.square().sum()))
    assert moved.aligned == pytest.approx(agreement, abs=0.15)
    assert not math.isnan(moved.turning)
