import numpy as np
import pytest
from moving import Moving
from synthetic import TRIVIAL, Synthetic, falling

from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.learning_rate_too_low import LearningRateTooLow

rule = LearningRateTooLow()


def check(made):
    return rule.check(made.build(), LearningRateTooLow.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def slow(agreement=0.5, distance=0.01, *, left=None, loss=TRIVIAL, steps=100, lr=1e-5):
    made = Moving(steps)
    made.way(distance)
    made.gradients(agreement, left=left)
    made.loss(loss)
    made.each_step(lr=[[rate] for rate in np.broadcast_to(lr, (steps,))])
    return made


@pytest.mark.parametrize(("agreement", "kind"), [(0.31, Findings), (0.29, Passed)])
def test_gradients_that_agree(agreement, kind):
    assert isinstance(check(slow(agreement, distance=0.05)), kind)


@pytest.mark.parametrize(("left", "kind"), [(0.52, Findings), (0.48, Passed)])
def test_or_most_of_the_slope_is_left_after_a_step(left, kind):
    assert isinstance(check(slow(0.2, distance=0.05, left=left)), kind)


@pytest.mark.parametrize(("distance", "kind"), [(0.29, Findings), (0.31, Passed)])
def test_weights_that_hardly_move(distance, kind):
    assert isinstance(check(slow(distance=distance)), kind)


def test_what_decides_is_said_first_with_its_distance():
    far = check(slow(0.5, distance=0.9))
    assert far.margin == pytest.approx(3.0, rel=0.05)
    assert far.measured.startswith("the weights went 0.9 of their size: more than the 0.3 below")
    turned = check(slow(0.1, distance=0.05))
    assert turned.margin > 2
    assert turned.measured.startswith("ten gradients agree to 0.1")


def test_weights_that_do_not_move_at_all_are_another_rules_business():
    assert isinstance(check(slow(distance=0.0)), Passed)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_the_gradient_is_no_matter(scale):
    made = Moving(100)
    made.way(0.01)
    made.gradients(0.5, scale=scale)
    made.loss(TRIVIAL)
    assert isinstance(check(made), Findings)


def test_a_training_that_learns_is_quiet():
    assert isinstance(check(slow(0.9, loss=falling())), Passed)


def test_a_loss_that_rises_is_no_matter_of_small_steps():
    assert isinstance(check(slow(loss=np.linspace(1, 30, 100) * TRIVIAL)), Passed)


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(slow(steps=steps))).severity == severity


def test_a_warm_up_is_waited_for():
    lr = np.minimum(1.0, np.arange(100) / 90) * 1e-3
    assert isinstance(check(slow(lr=lr)), Undecided)


def test_it_says_how_far_it_is():
    finding = only(check(slow(loss=np.linspace(1.0, 0.92, 100) * TRIVIAL)))
    assert finding.kind == "low"
    assert "1 % of their size" in finding.summary
    # oracle: .08 / 99 a step, from the mean of the last five (.92 + 2 steps) down to .7
    pace = 0.08 / 99
    expected = (0.92 + 2 * pace - 0.7) / pace
    evidence = {e.name: e.value for e in finding.evidence}
    assert evidence["steps still to go at this pace"] == pytest.approx(expected, rel=1e-6)


def decayed(share):
    """A rate that is usual at first and a thousandth of it for the last ``share`` of the steps."""
    lr = np.full(100, 0.1)
    lr[round(100 * (1 - share)) :] = 1e-4
    return lr


@pytest.mark.parametrize(("share", "kind"), [(0.25, Findings), (0.24, Passed)])
def test_a_schedule_that_went_to_nothing(share, kind):
    outcome = check(slow(distance=0.9, lr=decayed(share)))
    assert isinstance(outcome, kind)
    if kind is Findings:
        assert only(outcome).kind == "schedule"
        assert only(outcome).first_step == 75


@pytest.mark.parametrize(("last", "kind"), [(0.9e-3, Findings), (1.1e-3, Passed)])
def test_a_hundredth_of_the_largest_rate(last, kind):
    lr = np.full(100, 0.1)
    lr[50:] = last
    assert isinstance(check(slow(distance=0.9, lr=lr)), kind)


@pytest.mark.parametrize("agreement", [0.12, 0.29])
def test_a_schedule_that_ended_where_nothing_is_left_to_learn(agreement):
    assert isinstance(check(slow(agreement, 0.9, lr=decayed(0.5))), Passed)


def test_a_cosine_to_zero_is_no_fault():
    lr = 0.1 * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2
    assert isinstance(check(slow(distance=0.9, lr=lr)), Passed)


def test_a_rate_of_zero():
    finding = only(check(slow(distance=0.0, lr=0.0)))
    assert finding.kind == "zero"
    assert finding.summary == "The learning rate is 0 on each of 100 steps."


def test_without_gradients_it_is_undecided():
    made = Moving(100)
    made.way(0.01)
    made.loss(TRIVIAL)
    assert isinstance(check(made), Undecided)
    assert Synthetic(10).build().count("sketches") == 0


@pytest.mark.parametrize(("end", "kind"), [(0.86, Findings), (0.78, Passed)])
def test_a_loss_that_falls_too_slowly_to_arrive(end, kind):
    """From 1 to ``end`` in 100 steps: (end - 0.7) / (1 - end) hundred more steps to come to 0.7."""
    assert isinstance(check(slow(loss=np.linspace(1.0, end, 100) * TRIVIAL)), kind)


@pytest.mark.parametrize(
    ("agreement", "distance", "kind"),
    [(0.21, 0.019, Findings), (0.19, 0.019, Passed), (0.21, 0.021, Passed)],
)
def test_less_agreement_is_enough_where_nothing_moved(agreement, distance, kind):
    assert isinstance(check(slow(agreement, distance)), kind)
