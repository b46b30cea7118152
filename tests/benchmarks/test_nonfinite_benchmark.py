import collections

import pytest

from benchmarks.nonfinite import table
from benchmarks.nonfinite.hosts import PLACES, culprit, line_of
from benchmarks.nonfinite.listed import LISTED
from benchmarks.nonfinite.named import named
from benchmarks.nonfinite.operations import OPERATIONS
from benchmarks.nonfinite.plan import plan
from benchmarks.nonfinite.tools import anomaly_says, gradscope_says, hook_says, unwatched

CASES = plan("long")


def test_the_plan_is_wide_and_always_the_same():
    assert len(CASES) == len(OPERATIONS) * len(PLACES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
    assert plan("long") == CASES
    assert set(plan("short")) < set(CASES)
    for part in ("place", "host", "loop", "dtype"):
        counts = collections.Counter(getattr(case, part) for case in CASES)
        assert min(counts.values()) >= 4, part


def fitting(name, place):
    return next(c for c in CASES if c.operation.name == name and c.place == place)


@pytest.mark.parametrize("place", ["middle", "loss"])
def test_a_case_and_its_twin_are_told_right(place):
    case = fitting("sqrt", place)
    finite, _ = unwatched(case, sick=True)
    assert not finite
    assert unwatched(case, sick=False)[0]
    answer = gradscope_says(case, sick=True)
    assert answer.operation in case.operation.expected
    assert (answer.module, answer.samples) == (culprit(place), case.samples)
    assert answer.line == line_of(case.operation.apply)
    assert not gradscope_says(case, sick=False).alarmed


def test_the_peers_are_really_run():
    case = fitting("sqrt", "middle")
    # it knows NaN only: the Inf of the square root's derivative becomes one in the square before it
    assert anomaly_says(case, sick=True).operation == "pow"
    assert not anomaly_says(case, sick=False).alarmed
    forward = fitting("log", "last")
    assert hook_says(forward, sick=True).module == "places.2"
    assert not hook_says(forward, sick=False).alarmed


@pytest.mark.parametrize("name", ["CTC, too long a target", "a recovered GradScaler skip"])
def test_listed_cases(name):
    (case,) = [case for case in LISTED if case.name == name]
    said = named(case)
    assert said.right, said.summary


def test_the_interval_is_wilsons():
    low, high = table.interval(97, 100)
    assert (low, high) == pytest.approx((0.9155, 0.9897), abs=1e-3)
