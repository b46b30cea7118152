"""Which of several limits tells how far a rule that passed is from a finding."""

import math

import pytest

from gradscope.diagnose.held import UNKNOWN, Held, farthest, nearest, passed

NEAR, FAR, BEYOND, OPEN = (Held(m, f"{m}") for m in (2.0, 9.0, 0.5, math.nan))


def test_where_one_broken_limit_is_enough_the_nearest_one_tells():
    assert nearest((FAR, NEAR, OPEN)) is NEAR


def test_where_all_must_be_broken_the_farthest_one_tells():
    assert farthest((OPEN, BEYOND, NEAR)) is NEAR


@pytest.mark.parametrize("choose", [nearest, farthest])
def test_nothing_known_tells_nothing(choose):
    assert choose((OPEN,)) is UNKNOWN


def test_what_decides_is_said_first():
    assert passed(NEAR, "more").measured == "2.0; more"
    assert passed(NEAR).margin == 2.0


@pytest.mark.parametrize("held", [BEYOND, OPEN, Held(math.inf, "")])
def test_a_value_that_is_not_inside_its_limit_has_no_distance(held):
    assert passed(held).margin is None
