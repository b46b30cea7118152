"""The order of the fixes that helped: by effect, but the cause's own fix before mere speed."""

import math
from dataclasses import replace

import pytest

from gradscope.advise.ranking import Helped, ranked

NORM = Helped(direct=False, score=0.14, learnt=0.88, fails=False)
CAUSE = Helped(direct=True, score=0.35, learnt=0.65, fails=False)


def test_the_fix_of_the_cause_goes_before_one_that_only_trains_faster():
    assert ranked([NORM, CAUSE]) == [1, 0]


@pytest.mark.parametrize(
    "weak",
    [
        replace(CAUSE, fails=True),
        replace(CAUSE, learnt=0.43),
        replace(CAUSE, learnt=math.nan),
        replace(CAUSE, direct=False),
    ],
)
def test_not_where_the_training_still_fails_or_learns_less_than_half(weak):
    assert ranked([weak, NORM]) == [1, 0]


def test_half_of_what_the_best_one_learns_is_enough():
    assert ranked([NORM, replace(CAUSE, learnt=0.44)]) == [1, 0]


def test_of_two_that_remove_the_cause_the_effect_decides():
    better = replace(CAUSE, score=0.3)
    assert ranked([CAUSE, NORM, better]) == [2, 1, 0]


def test_without_a_fix_of_the_cause_the_effect_decides():
    slower = replace(NORM, score=0.5)
    assert ranked([slower, NORM]) == [1, 0]
    assert ranked([]) == []
