from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradscope.recording.facts import BY_NAME, EXPONENT_EDGES, State
from gradscope.recording.merge import merge_by, merge_moments

_DTYPE = BY_NAME["gradients"].dtype


def _described(values: np.ndarray, *, step: int = 0, parameter: int = 0) -> np.ndarray:
    """A row of ``gradients`` for float64 values, straight from the definitions."""
    row = np.zeros(1, _DTYPE)
    finite = values[np.isfinite(values)]
    whole = len(finite) == len(values)
    row["step"], row["parameter"] = step, parameter
    row["count"] = row["looked_at"] = len(values)
    with np.errstate(all="ignore"):
        row["sum"] = values.sum()
        row["sum_sq"] = np.square(values).sum()
    row["max_abs"] = np.abs(values).max() if len(values) else 0
    row["nonfinite"] = not whole
    row["zeros"] = (values == 0).sum()
    row["nans"], row["infs"] = np.isnan(values).sum(), np.isinf(values).sum()
    nonzero = np.abs(finite[finite != 0])
    bins = np.searchsorted(EXPONENT_EDGES, np.frexp(nonzero)[1] - 1, side="right")
    row["exponents"] = np.bincount(bins, minlength=len(EXPONENT_EDGES) + 1)
    if not whole:
        row["state"] = State.NON_FINITE
    else:
        row["state"] = State.FINITE if nonzero.size else State.EXACT_ZERO
    return row


_TENSORS = hnp.arrays(
    np.float64,
    st.integers(0, 30),
    elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
)


@given(st.lists(_TENSORS, min_size=1, max_size=5))
def test_moments_of_the_parts_are_those_of_the_whole(parts: list[np.ndarray]) -> None:
    merged = merge_moments([_described(part) for part in parts])
    whole = _described(np.concatenate(parts))
    for name in _DTYPE.names:
        if name in ("sum", "sum_sq"):
            magnitude = np.abs(np.concatenate(parts)).sum() if name == "sum" else whole["sum_sq"]
            np.testing.assert_allclose(
                merged[name], whole[name], rtol=1e-12, atol=1e-12 * np.nan_to_num(magnitude).max()
            )
        else:
            np.testing.assert_array_equal(merged[name], whole[name], err_msg=name)


@given(st.lists(_TENSORS, min_size=2, max_size=5), st.randoms())
def test_the_order_of_the_parts_does_not_matter(parts: list[np.ndarray], shuffle) -> None:
    rows = [_described(part) for part in parts]
    other = list(rows)
    shuffle.shuffle(other)
    left, right = merge_moments(rows), merge_moments(other)
    for name in _DTYPE.names:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-9, atol=1e-6, err_msg=name)


def test_merging_leaves_the_parts_as_they_are() -> None:
    rows = [_described(np.array([1.0, 2.0])), _described(np.array([4.0]))]
    before = [part.tobytes() for part in rows]
    merge_moments(rows)
    merge_by(rows, ("step", "parameter"))
    assert [part.tobytes() for part in rows] == before


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (State.FINITE, State.NON_FINITE, State.NON_FINITE),
        (State.EXACT_ZERO, State.FINITE, State.FINITE),
        (State.NONE, State.EXACT_ZERO, State.EXACT_ZERO),
        (State.FROZEN, State.NONE, State.NONE),
        (State.FROZEN, State.FROZEN, State.FROZEN),
    ],
)
def test_the_state_of_the_whole(left: State, right: State, expected: State) -> None:
    a, b = _described(np.zeros(0)), _described(np.zeros(0))
    a["state"], b["state"] = left, right
    assert merge_moments([a, b])["state"] == merge_moments([b, a])["state"] == expected


def test_what_was_not_taken_stays_apart_from_zero() -> None:
    a, b = _described(np.array([0.0, 1.0])), _described(np.array([0.0]))
    b["looked_at"] = b["zeros"] = b["nans"] = b["infs"] = -1
    merged = merge_moments([a, b])
    # a sample of one part is still a sample; a count of one part is no count of the whole
    assert (merged["looked_at"], merged["zeros"]) == (2, 1)
    assert (merged["nans"], merged["infs"]) == (-1, -1)
    assert merge_moments([b, b])["looked_at"] == -1


def test_a_histogram_stops_at_its_largest_number() -> None:
    row = _described(np.zeros(0))
    row["exponents"][:, 4] = 40_000
    merged = merge_moments([row, row])
    assert merged["exponents"][0, 4] == 65_535
    assert merged["exponents"][0].sum() == 65_535


def test_rows_are_merged_by_key_whatever_their_order() -> None:
    random = np.random.default_rng(0)
    values = {
        (step, parameter): [random.normal(size=4) for _ in range(random.integers(1, 4))]
        for step in range(3)
        for parameter in range(4)
    }
    ranks: list[list[np.ndarray]] = [[], [], []]
    for (step, parameter), parts in values.items():
        for rank, part in enumerate(parts):
            ranks[rank].append(_described(part, step=step, parameter=parameter))
    shards = [np.concatenate(rows)[random.permutation(len(rows))] for rows in ranks]
    merged = merge_by(shards, ("step", "parameter"))
    assert [(row["step"], row["parameter"]) for row in merged] == sorted(values)
    for row in merged:
        whole = np.concatenate(values[row["step"], row["parameter"]])
        assert row["count"] == len(whole)
        np.testing.assert_allclose(row["sum_sq"], np.square(whole).sum(), rtol=1e-12)


def test_activations_merge_too_and_nothing_merges_to_nothing() -> None:
    rows = np.ones(2, BY_NAME["activations"].dtype)
    rows["position"] = [0, 1]
    keys = ("step", "module", "role", "position")
    merged = merge_by([rows, rows[:1]], keys)
    assert list(merged["count"]) == [2, 1]
    assert list(merged["batch"]) == [1, 1]
    assert len(merge_by([rows[:0], rows[:0]], keys)) == 0
