"""The label's rule on both sides of its limits."""

import pytest

from benchmarks.accuracy.labelling import FLOOR, SEEDS, label, label_alone, seeds

TWIN = (0.8, 0.8, 0.8)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.39, 0.39, 0.39), "sick"),
        ((0.41, 0.41, 0.41), "between"),
        ((0.63, 0.63, 0.63), "between"),
        ((0.65, 0.65, 0.65), "healthy"),
        ((0.9, 0.9, 0.9), "healthy"),
        # the training that is watched did well, the others did not, and the other way round
        ((0.8, 0.0, 0.0), "between"),
        ((0.0, 0.8, 0.8), "between"),
        ((0.0, 0.3, 0.3), "sick"),
        ((0.5, 0.8, 0.8), "between"),
    ],
)
def test_boundaries_against_the_twin(shares, expected):
    assert label(shares, TWIN) == expected


def test_no_seed_may_do_better_than_its_twin():
    assert label((0.1, 0.1, 0.25), (0.8, 0.8, 0.3)) == "sick"
    assert label((0.1, 0.1, 0.3), (0.8, 0.8, 0.3)) == "between"


def test_a_twin_that_does_not_learn_judges_nothing():
    below, above = FLOOR * 0.99, FLOOR * 1.01
    assert label((0.0, 0.0, 0.0), (below,) * 3) == "unjudged"
    assert label((0.0, 0.0, 0.0), (above,) * 3) == "sick"


def test_alone():
    assert label_alone((FLOOR, FLOOR, FLOOR)) == "healthy"
    assert label_alone((FLOOR * 0.99, 1.0, 1.0)) == "unjudged"
    assert label_alone((1.0, 0.0, 0.0)) == "healthy"
    assert label_alone((FLOOR, 0.0, 0.0)) == "unjudged"


def test_seeds_begin_with_the_case_and_share_a_group():
    groups = {frozenset(seeds(first)) for first in range(2 * SEEDS)}
    assert groups == {frozenset(range(SEEDS)), frozenset(range(SEEDS, 2 * SEEDS))}
    assert all(seeds(first)[0] == first for first in range(2 * SEEDS))
