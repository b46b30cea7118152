"""Signal shares against the pairwise formula, and their interval against many repetitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradscope.diagnose.directions import _direction


def gradients(rng: np.random.Generator, signal: float, steps: int = 40, width: int = 64):
    common = rng.standard_normal(width)
    common *= np.sqrt(width) / np.linalg.norm(common)
    noise = rng.standard_normal((steps, width))
    return np.sqrt(signal) * common + np.sqrt(1 - signal) * noise


def test_share_is_the_mean_over_all_pairs() -> None:
    vectors = gradients(np.random.default_rng(0), 0.3, steps=12)
    pairs = [a @ b for a, b in itertools.permutations(vectors, 2)]
    expected = np.mean(pairs) / np.mean((vectors**2).sum(axis=1))
    found = _direction(vectors)
    assert found.signal == pytest.approx(expected, rel=1e-12)
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.pairwise(vectors)
    ]
    assert found.consecutive == pytest.approx(np.mean(cosines), rel=1e-12)
    assert found.steps == 12


def test_leaving_steps_out_is_what_the_interval_is_made_of() -> None:
    vectors = gradients(np.random.default_rng(1), 0.2, steps=15)
    left = np.array([_direction(np.delete(vectors, i, axis=0)).signal for i in range(15)])
    expected = 1.96 * np.sqrt(14 / 15 * ((left - left.mean()) ** 2).sum())
    assert _direction(vectors).error == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("signal", [0.0, 0.1, 0.5])
def test_the_interval_covers_the_true_share(signal: float) -> None:
    rng = np.random.default_rng(2)
    found = [_direction(gradients(rng, signal)) for _ in range(300)]
    covered = np.mean([abs(d.signal - signal) <= d.error for d in found])
    # 95 % is aimed at; with 300 repetitions and 40 steps 0.88 is far outside of chance
    assert covered > 0.88
    assert np.mean([d.error for d in found]) < 0.2, "an interval that covers all says nothing"


def test_one_gradient_repeated_and_one_that_turns_back() -> None:
    vector = np.arange(1.0, 9.0)
    same = _direction(np.tile(vector, (20, 1)))
    assert same.signal == pytest.approx(1)
    assert same.error == pytest.approx(0, abs=1e-9)
    turning = _direction(vector * np.where(np.arange(20) % 2, 1, -1)[:, None])
    assert turning.signal == pytest.approx(-1 / 19)
    assert turning.consecutive == pytest.approx(-1)
