"""What successive gradients of each parameter have in common, with how sure that is.

The share of the signal is that of noise.py, for one parameter alone. Its interval is that of the
jackknife (Efron and Stein 1981): the share is computed anew without each step in turn, and the
squared deviations of these n values, times (n - 1) / n, add up to the squared standard error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradscope.diagnose import windows
from gradscope.diagnose.noise import WINDOW
from gradscope.recording.reader import Recording

LEAST = 10
"""Gradients below which a jackknife of their pairs says little."""
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True, slots=True)
class Direction:
    """How far the gradients of one parameter agree over the last sampled steps.

    Attributes:
        signal: share of their size that they have in common; 0 for pure noise, 1 for one gradient
            repeated, negative where steps undo each other.
        error: half the width of its 95 % interval.
        consecutive: mean cosine between the gradients of two sampled steps that follow each other.
        steps: gradients compared.
    """

    signal: float
    error: float
    consecutive: float
    steps: int


def directions(recording: Recording) -> dict[int, Direction]:
    """By parameter id, where at least ``LEAST`` gradients that are not zero were sketched."""
    window = windows.last_window(recording, "sketches", WINDOW)
    index = recording.sketches
    chosen = (index["step"].isin(window) & (index["of_update"] == 0)).to_numpy(bool)
    index = index[chosen]
    vectors = recording.vectors("sketches", "values")[chosen].astype(np.float64)
    vectors *= index["scale"].to_numpy(np.float64)[:, None]
    found = {}
    for identity, rows in index.reset_index(drop=True).groupby("parameter_id"):
        own = vectors[rows.sort_values("step").index.to_numpy()]
        own = own[np.isfinite(own).all(axis=1) & (own != 0).any(axis=1)]
        if len(own) >= LEAST:
            found[int(identity)] = _direction(own)
    return found


def _direction(vectors: npt.NDArray[np.float64]) -> Direction:
    """Of gradients ``[n, sketch]`` in the order of their steps."""
    n = len(vectors)
    sizes = (vectors**2).sum(axis=1)
    total, squares = vectors.sum(axis=0), float(sizes.sum())
    whole = float(total @ total)
    without = whole - 2 * (vectors @ total) + sizes
    left = _share(without, squares - sizes, n - 1)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    units = vectors / np.sqrt(sizes)[:, None]
    return Direction(
        signal=float(_share(np.array([whole]), np.array([squares]), n)[0]),
        error=float(_TWO_SIDED_95 * error),
        consecutive=float((units[1:] * units[:-1]).sum(axis=1).mean()),
        steps=n,
    )


def _share(
    whole: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], n: int
) -> npt.NDArray[np.float64]:
    return (whole - squares) / ((n - 1) * squares)
