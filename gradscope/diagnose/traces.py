"""Directions of gradients and updates, from their sketches: do steps agree, do they go too far?

A large run has hundreds of thousands of sketches, so they are taken one parameter at a time, and
sums over steps are sums of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradscope.diagnose import windows
from gradscope.recording.facts import SKETCH_SIZE
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]

WINDOW = 10
"""Steps over which gradients are added up (docs/why/signals.md, "SNR")."""
PAIRS = 10
"""Pairs of following steps that an overshoot needs at least. Ours: the sign of a mean of ten."""


@dataclass(frozen=True, slots=True)
class Directions:
    """``aligned``, ``carried``, ``pairs`` and ``turning`` as in ``movement.Movement``."""

    aligned: float
    carried: float
    pairs: int
    turning: float


@dataclass(frozen=True, slots=True)
class _Trace:
    """Sketches of one parameter's gradient or update, ``values[step, number]``, by step."""

    steps: npt.NDArray[np.int64]
    values: Floats


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is summed up over the parameters, by usable step, and the windows' alignments."""

    steps: windows.Steps
    before: Floats
    after: Floats
    cosines: Floats
    compared: Floats
    aligned: list[Floats]


def directions(recording: Recording, matrices: Sequence[int], usable: windows.Steps) -> Directions:
    """What the sketches of ``matrices`` say on the ``usable`` steps.

    Args:
        recording: what was recorded.
        matrices: ids of parameters.
        usable: steps, ascending.
    """
    before, after, cosines, compared = np.zeros((4, len(usable)))
    sums = _Sums(usable, before, after, cosines, compared, [])
    second = usable[len(usable) // 2 :]
    for gradient, update in _traces(recording, matrices, usable):
        _add_alignment(sums, gradient, second)
        _add_carried(sums, gradient, update)
        _add_turning(sums, update)
    # a step uphill (momentum, noise) has no slope to use up
    down = sums.before < 0
    shares = sums.after[down] / sums.before[down]
    enough = len(shares) >= PAIRS
    alignments = np.concatenate(sums.aligned) if sums.aligned else np.zeros(0)
    means = sums.cosines[sums.compared > 0] / sums.compared[sums.compared > 0]
    return Directions(
        aligned=float(alignments.mean()) if len(alignments) else math.nan,
        carried=float(np.median(shares)) if enough else math.nan,
        pairs=len(shares) if enough else 0,
        turning=float(means.mean()) if len(means) >= PAIRS else math.nan,
    )


def _traces(
    recording: Recording, matrices: Sequence[int], usable: windows.Steps
) -> Iterator[tuple[_Trace, _Trace]]:
    """Gradient and update of each matrix; one without a step where it has none."""
    frame = recording.sketches
    stored = recording.vectors("sketches", "values").reshape(-1, SKETCH_SIZE)
    wanted = frame["parameter_id"].isin(matrices) & frame["step"].isin(usable)
    keep = np.flatnonzero(wanted.to_numpy(bool))
    step, parameter, of_update, scale = (
        frame[name].to_numpy()[keep] for name in ("step", "parameter_id", "of_update", "scale")
    )
    order = np.lexsort((step, of_update, parameter))
    for identity in np.unique(parameter):
        low, high = np.searchsorted(parameter, [identity, identity + 1], sorter=order)
        place = order[low:high]
        vectors = stored[keep[place]] * scale[place].astype(np.float64)[:, None]
        middle = int(np.searchsorted(of_update[place], 1))
        at = step[place].astype(np.int64)
        yield _Trace(at[:middle], vectors[:middle]), _Trace(at[middle:], vectors[middle:])


def _add_alignment(sums: _Sums, gradient: _Trace, steps: windows.Steps) -> None:
    vectors = gradient.values[np.isin(gradient.steps, steps)]
    blocks = vectors[: len(vectors) // WINDOW * WINDOW].reshape(-1, WINDOW, SKETCH_SIZE)
    total = (blocks**2).sum(axis=(1, 2))
    moving = total > 0
    common = (blocks[moving].sum(axis=1) ** 2).sum(axis=1)
    sums.aligned.append(common / (WINDOW * total[moving]))


def _add_carried(sums: _Sums, gradient: _Trace, update: _Trace) -> None:
    """Slopes along each update, before it was taken and after it."""
    known = gradient.steps
    if len(known) < 2:
        return
    at = np.minimum(np.searchsorted(known, update.steps), len(known) - 2)
    pairs = np.flatnonzero((known[at] == update.steps) & (known[at + 1] == update.steps + 1))
    at, taken = at[pairs], update.values[pairs]
    place = np.searchsorted(sums.steps, update.steps[pairs])
    sums.before[place] += (gradient.values[at] * taken).sum(axis=1)
    sums.after[place] += (gradient.values[at + 1] * taken).sum(axis=1)


def _add_turning(sums: _Sums, update: _Trace) -> None:
    first = np.flatnonzero(np.diff(update.steps) == 1)
    one, other = update.values[first], update.values[first + 1]
    sizes = (one**2).sum(axis=1) * (other**2).sum(axis=1)
    moving = sizes > 0
    place = np.searchsorted(sums.steps, update.steps[first[moving]])
    sums.cosines[place] += (one[moving] * other[moving]).sum(axis=1) / np.sqrt(sizes[moving])
    sums.compared[place] += 1


__all__ = ["PAIRS", "WINDOW", "Directions", "directions"]
