"""Sums and count sketches of a step's updates, and the rows of the recording made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradscope.recording.facts import SKETCH_SIZE, SKETCHES, UPDATE_SAMPLE_SIZE, UPDATES

Rows = npt.NDArray[np.void]
Floats = npt.NDArray[np.float64]
Read = tuple[int, Tensor, Tensor | None]
"""Id of a parameter, the parameter, its gradient."""

SUMS = ("changed", "before_sq", "delta_sq", "gradient_sq", "progress", "distance_sq")
"""Columns of ``updates`` that are sums over the elements looked at, in the kernel's order."""
SIGNS = np.random.Generator(np.random.PCG64(20_241_124)).choice([-1.0, 1.0], UPDATE_SAMPLE_SIZE)
"""Random signs of the sketch, from a generator of our own: the user's must not move."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sample of each of P parameters lies in one long vector.

    Attributes:
        ids: parameter ids ``[P]``.
        counts: elements of each parameter ``[P]``.
        starts: start of each sample ``[P]``; empty samples are left out of the layout.
        lengths: length of each sample ``[P]``.
    """

    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ids: list[int], counts: list[int], lengths: list[int]) -> Layout:
        """One sample behind the other."""
        long = np.array(lengths, np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(long)[:-1]])
        return cls(np.array(ids, np.int32), np.array(counts, np.int64), starts, long)


def no_rows() -> tuple[Rows, Rows]:
    """Rows of nothing."""
    return np.zeros(0, UPDATES.dtype), np.zeros(0, SKETCHES.dtype)


def rows_of(step: int, layout: Layout, sums: Floats, sketches: Floats) -> tuple[Rows, Rows]:
    """Rows of ``updates`` and of ``sketches``.

    Args:
        step: the step.
        layout: of P parameters.
        sums: ``[P, len(SUMS)]``.
        sketches: ``[P, 2, SKETCH_SIZE]``, of the gradient and of the update.
    """
    rows = np.zeros(len(layout.ids), UPDATES.dtype)
    rows["step"], rows["parameter"] = step, layout.ids
    rows["count"], rows["looked_at"] = layout.counts, layout.lengths
    with np.errstate(over="ignore"):  # more than float32 holds is Inf
        for name, values in zip(SUMS, sums.T, strict=True):
            rows[name] = values
    parts = [_quantised(step, layout, sketches[:, n], of_update=n) for n in (0, 1)]
    return rows, np.concatenate(parts)


def sums_and_sketches(
    layout: Layout, old: Floats, new: Floats, grad: Floats, origin: Floats
) -> tuple[Floats, Floats]:
    """What the kernel computes, by numpy; arguments are the samples in float64.

    The sketch is a count sketch: element i goes to bucket i mod 64 with a fixed random sign, so
    that E[<sketch(a), sketch(b)>] = <a, b> (Charikar, Chen and Farach-Colton 2002).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        delta = new - old
        terms = (
            new != old,
            old * old,
            delta * delta,
            grad * grad,
            -grad * delta,
            (new - origin) ** 2,
        )
        sums = [np.add.reduceat(values.astype(np.float64), layout.starts) for values in terms]
        sketches = [_sketched(layout, values) for values in (grad, delta)]
    return np.stack(sums, axis=1), np.stack(sketches, axis=1)


def _sketched(layout: Layout, values: Floats) -> Floats:
    total = len(layout.ids)
    position = np.arange(len(values)) - np.repeat(layout.starts, layout.lengths)
    row = np.repeat(np.arange(total), layout.lengths) * SKETCH_SIZE
    buckets = np.bincount(
        row + position % SKETCH_SIZE,
        weights=values * SIGNS[position % UPDATE_SAMPLE_SIZE],
        minlength=total * SKETCH_SIZE,
    )
    return buckets.astype(np.float64, copy=False).reshape(total, SKETCH_SIZE)


def _quantised(step: int, layout: Layout, buckets: Floats, *, of_update: int) -> Rows:
    """Sketches in int8 with one scale a row: a bucket is off by 1/254 of the largest at most."""
    usable = np.isfinite(buckets).all(axis=1)
    buckets, ids = buckets[usable], layout.ids[usable]
    largest = np.abs(buckets).max(axis=1, initial=0.0)
    rows = np.zeros(len(ids), SKETCHES.dtype)
    rows["step"], rows["parameter"], rows["of_update"] = step, ids, of_update
    rows["scale"] = largest / 127
    with np.errstate(divide="ignore", invalid="ignore"):
        quantised = np.where(largest[:, None] > 0, buckets / (largest[:, None] / 127), 0.0)
    rows["values"] = np.rint(quantised)
    return rows
