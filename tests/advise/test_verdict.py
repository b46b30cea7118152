"""The rule of decision, on curves made by hand: both sides of each limit."""

import math

import pytest

from gradscope.advise.verdict import (
    Run,
    Yardstick,
    effect,
    fails,
    judge,
    measure_of,
    separated,
    tail,
)

STEPS = 60
CHANCE = math.log(10)


def falling(to, start=CHANCE, steps=STEPS):
    """Falls on a straight line over the first four fifths of the steps and stays there."""
    down = int(0.8 * STEPS)
    return Run(tuple(start + (to - start) * min(1, i / down) for i in range(steps)))


def flat(at=CHANCE):
    return Run((at,) * STEPS)


YARDSTICK = Yardstick(STEPS, CHANCE)


def test_the_tail_is_the_median_of_the_last_fifth():
    losses = [9.0] * 48 + [1.0] * 5 + [2.0] + [3.0] * 5 + [100.0]
    assert tail(Run(tuple(losses)), "loss", 60) == 2.5


@pytest.mark.parametrize(("length", "finite"), [(54, True), (53, False)])
def test_a_training_that_ended_before_nine_tenths_has_no_end(length, finite):
    run = Run((1.0,) * length)
    assert math.isfinite(tail(run, "loss", 60)) == finite


def test_one_nan_in_the_tail_is_no_end():
    assert tail(Run((1.0,) * 59 + (math.nan,)), "loss", 60) == math.inf


@pytest.mark.parametrize(("treated", "status"), [(0.79, "helped"), (0.82, "no-effect")])
def test_the_worst_seed_must_be_well_below_the_best_control(treated, status):
    controls = [falling(2.0), falling(1.95), falling(1.9)]  # fails, and is not stuck at the start
    others = [falling(1.0), falling(1.1), falling(treated * 1.9)]
    assert judge(controls, others, "loss", YARDSTICK)[0] == status


@pytest.mark.parametrize(("treated", "status"), [(0.88, "helped"), (0.91, "no-effect")])
def test_a_control_that_stands_still_needs_less_to_be_beaten(treated, status):
    controls = [flat(), flat(1.02 * CHANCE), flat(1.01 * CHANCE)]
    others = [falling(1.0), falling(1.1), falling(treated * CHANCE)]
    assert judge(controls, others, "loss", YARDSTICK)[0] == status


def test_one_seed_in_which_it_does_not_help_is_enough_against_it():
    controls, others = [flat()] * 3, [falling(0.1), falling(0.1), flat()]
    assert judge(controls, others, "loss", YARDSTICK)[0] == "no-effect"


@pytest.mark.parametrize(("end", "failing"), [(0.71, True), (0.69, False)])
def test_a_control_fails_above_seven_tenths_of_a_constant_answer(end, failing):
    assert fails(falling(end * CHANCE), "loss", YARDSTICK) == failing


@pytest.mark.parametrize(("end", "failing"), [(0.91, True), (0.89, False)])
def test_without_a_known_constant_answer_it_fails_where_it_began(end, failing):
    assert fails(falling(end * 5, start=5.0), "loss", Yardstick(STEPS)) == failing


def test_a_training_that_learns_already_is_not_helped():
    controls, others = [falling(1.0)] * 3, [falling(0.2)] * 3
    status, reason = judge(controls, others, "loss", YARDSTICK)
    assert (status, reason) == ("no-effect", "trains faster, no fault proved")


def test_unless_the_finding_itself_proves_the_fault():
    controls, others = [falling(1.0)] * 3, [falling(0.2)] * 3
    proved = Yardstick(STEPS, CHANCE, proved=True)
    assert judge(controls, others, "loss", proved)[0] == "helped"


def test_coming_down_from_a_badly_scaled_start_is_not_learning():
    controls = [Run(tuple(3.0 + 400 * 0.8**i for i in range(STEPS)))] * 3
    assert fails(controls[0], "loss", YARDSTICK)
    still_bad = [Run(tuple(2.2 + 400 * 0.8**i for i in range(STEPS)))] * 3
    assert not separated(controls, still_bad, "loss", YARDSTICK)


def test_from_nan_to_a_loss_far_above_the_start_is_no_help():
    controls = [Run((2.3,) * 5 + (math.inf,) * 55)] * 3
    assert not separated(controls, [flat(27_000.0)] * 3, "loss", YARDSTICK)
    assert separated(controls, [falling(0.5)] * 3, "loss", YARDSTICK)


@pytest.mark.parametrize(
    "treated", [[flat(9.0)] * 3, [Run((2.0,) * 9 + (math.nan,) * 51)] * 3], ids=["worse", "nan"]
)
def test_what_trains_worse_on_every_seed_hurts(treated):
    assert judge([falling(1.5)] * 3, treated, "loss", YARDSTICK)[0] == "hurt"


def test_a_changed_training_that_crashes_has_failed():
    broken = Run((2.0, 1.9), crashed="RuntimeError: shapes")
    status, reason = judge([flat()], [broken], "loss", YARDSTICK)
    assert status == "failed"
    assert "RuntimeError: shapes" in reason


def test_a_crash_of_the_control_is_a_failing_control():
    broken = Run((2.3, 2.3), crashed="ValueError: NaN in the loss")
    assert judge([broken] * 3, [falling(0.3)] * 3, "loss", YARDSTICK)[0] == "helped"


def test_where_the_loss_changes_its_meaning_wrong_answers_are_compared():
    seen = Run((1.0, 1.0), errors=(0.9, 0.9))
    unseen = Run((1.0, 1.0), errors=(math.nan, math.nan))
    assert measure_of([seen], rescales=True) == "error"
    assert measure_of([seen], rescales=False) == "loss"
    assert measure_of([unseen], rescales=True) == "loss"


def test_wrong_answers_decide_against_a_loss_that_is_lower_only_by_its_scale():
    control = Run((2.0,) * STEPS, errors=(0.9,) * STEPS)
    same = Run((0.1,) * STEPS, errors=(0.9,) * STEPS)
    better = Run((2.0,) * STEPS, errors=tuple(0.9 - 0.01 * i for i in range(STEPS)))
    assert judge([control] * 3, [same] * 3, "error", YARDSTICK)[0] == "no-effect"
    status, reason = judge([control] * 3, [better] * 3, "error", YARDSTICK)
    assert status == "helped"
    assert "another scale" in reason


def test_parameters_that_move_at_last_are_told_of_where_the_loss_shows_nothing():
    control = Run((1.0,) * STEPS, still=frozenset({"b.weight", "b.bias"}))
    proved = Yardstick(STEPS, CHANCE, proved=True)
    status, reason = judge([control] * 3, [flat(1.0)] * 3, "loss", proved)
    assert status == "no-effect"
    assert "2 parameters that never moved train now" in reason


def test_the_effect_is_the_share_of_the_start_that_is_left():
    assert effect(falling(CHANCE / 4), flat(), "loss", YARDSTICK) == pytest.approx(0.25)
    assert effect(Run((1.0,)), flat(), "loss", YARDSTICK) == math.inf
