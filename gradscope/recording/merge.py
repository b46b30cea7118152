"""Adds up the statistics of parts of a tensor: the shards that the ranks of a run hold.

Count, sum, sum of squares, zeros, sizes of samples and histograms add; the largest absolute value
is the larger one; *any non-finite* is an OR. This is exact, up to the rounding of float64 sums:
merging the moments of the parts gives the moments of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradscope.recording.facts import State
from gradscope.recording.schema import Rows

_SUMS = ("count", "sum", "sum_sq")
_SAMPLED = ("looked_at", "zeros")
"""-1: none taken; then only what the other part has counts."""
_COUNTED = ("nans", "infs")
"""-1: not counted; then the whole is not counted either, a part of a count would be wrong."""
_PRECEDENCE = (State.NON_FINITE, State.FINITE, State.EXACT_ZERO, State.NONE, State.FROZEN)


def merge_moments(parts: Sequence[Rows]) -> Rows:
    """Merge aligned rows: row ``i`` of each part describes one part of the same tensor.

    Args:
        parts: at least one array ``[n]`` of one dtype with the columns of the moments (tables
            ``gradients`` and ``activations``).

    Returns:
        ``[n]``, of the same dtype; columns that are no statistic are those of the first part.
    """
    merged = parts[0].copy()
    for part in parts[1:]:
        _add(merged, part)
    return merged


def merge_by(parts: Sequence[Rows], keys: Sequence[str]) -> Rows:
    """Merge rows of equal ``keys``; a key that only some parts have is kept as it is there.

    Args:
        parts: arrays of one dtype, each with at most one row for a key.
        keys: columns that name the tensor, e.g. ``("step", "parameter")``.

    Returns:
        One row for each key, sorted by key.
    """
    every = np.concatenate(list(parts))
    every = every[np.lexsort([every[key] for key in reversed(keys)])]
    is_first = np.ones(len(every), np.bool_)
    is_first[1:] = np.any([every[key][1:] != every[key][:-1] for key in keys], axis=0)
    starts = np.flatnonzero(is_first)
    merged = every[starts]
    sizes = np.diff(np.append(starts, len(every)))
    for nth in range(1, int(sizes.max(initial=1))):
        having = np.flatnonzero(sizes > nth)
        part = merged[having]
        _add(part, every[starts[having] + nth])
        merged[having] = part
    return merged


def merge_updates(parts: Sequence[Rows]) -> Rows:
    """Rows of table ``updates`` of parts of parameters, one for each step and parameter.

    Args:
        parts: arrays of one dtype. Sums over the elements looked at add; a part without a gradient
            (NaN) counts nothing where another has one.
    """
    every = np.concatenate(list(parts))
    keys, index = np.unique(every[["step", "parameter"]], return_inverse=True)
    merged = np.zeros(len(keys), every.dtype)
    merged["step"], merged["parameter"] = keys["step"], keys["parameter"]
    for name in every.dtype.names or ():
        if name in ("step", "parameter"):
            continue
        values = every[name].astype(np.float64)
        known = ~np.isnan(values)
        total = np.bincount(index[known], values[known], len(keys))
        seen = np.bincount(index[known], minlength=len(keys)) > 0
        if merged[name].dtype.kind == "f":
            total = np.where(seen, total, np.nan)
        merged[name] = total
    return merged


def _add(total: Rows, part: Rows) -> None:
    """Add ``part`` into ``total``, in place."""
    names = total.dtype.names or ()
    with np.errstate(over="ignore", invalid="ignore"):
        for name in _SUMS:
            total[name] += part[name]
    # np.maximum hands NaN on: a tensor with a NaN in it has no largest value
    total["max_abs"] = np.maximum(total["max_abs"], part["max_abs"])
    total["nonfinite"] |= part["nonfinite"]
    for name in _SAMPLED:
        mine, other = total[name], part[name]
        total[name] = np.where(mine < 0, other, np.where(other < 0, mine, mine + other))
    for name in _COUNTED:
        if name in names:
            mine, other = total[name], part[name]
            total[name] = np.where((mine < 0) | (other < 0), -1, mine + other)
    if "exponents" in names:
        most = np.iinfo(total["exponents"].dtype).max
        wide = total["exponents"].astype(np.int64) + part["exponents"]
        total["exponents"] = np.minimum(wide, most)
    if "state" in names:
        rank = np.full(256, len(_PRECEDENCE), np.uint8)
        rank[list(_PRECEDENCE)] = range(len(_PRECEDENCE))
        total["state"] = np.where(
            rank[part["state"]] < rank[total["state"]], part["state"], total["state"]
        )
