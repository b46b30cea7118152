"""How much of the gradient a recurrent layer loses over its time steps."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.once import once
from gradscope.recording.reader import Recording

UNDERFLOWN = 45.0
"""Decades that count where nothing is left: float32 ends at 1.4e-45."""
LEAST = 3
"""Sampled steps that a layer must have been measured on: a median of fewer is one of them. Ours."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The gradient at the layer's input over some time steps.

    Attributes:
        first: least distance from the last time step, in time steps.
        last: largest distance.
        rms: root mean square of the gradient there.
    """

    first: int
    last: int
    rms: float


@dataclass(frozen=True, slots=True)
class TimeProfile:
    """What one recurrent layer loses.

    Attributes:
        module: its name.
        length: time steps of its sequence.
        decades: powers of ten between ``strongest`` and ``farthest``, median over the steps.
        strongest: the bin with the largest gradient, on the median step.
        farthest: the bin farthest from the last time step, on that step.
        steps: the steps that were looked at, ascending.
        losses: decades on each of them.
    """

    module: str
    length: int
    decades: float
    strongest: Bin
    farthest: Bin
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def each(self) -> float:
        """Decades lost from one time step to the one before, between the two bins."""
        return self.decades / max(1, self.farthest.first - self.strongest.first)

    def share_beyond(self, limit: float) -> float:
        """Share of the steps on which more than ``limit`` decades are lost."""
        return sum(loss > limit for loss in self.losses) / len(self.losses)


@once
def time_profiles(recording: Recording, *, first: bool = False) -> tuple[TimeProfile, ...]:
    """One profile for each recurrent layer that was measured often enough, worst first.

    Args:
        recording: what was recorded.
        first: look at the first sampled steps in place of the last ones.
    """
    window = windows.first_window if first else windows.last_window
    wanted = {int(step) for step in window(recording, "through_time")}
    rows: dict[str, list[tuple[float, int, int, Bin, Bin]]] = defaultdict(list)
    frame = recording.through_time
    columns = (frame[name] for name in ("step", "name", "length", "bins"))
    for step, name, length, listed in zip(*columns, strict=True):
        bins = [Bin(int(first), int(last), float(rms)) for first, last, rms in listed or []]
        top = max(bins, key=lambda b: b.rms, default=None)
        # a layer that gets no gradient at all is another fault, and one of a single bin loses none
        if int(step) not in wanted or name is None or top is None or not top.rms > 0:
            continue
        far = bins[-1]
        loss = math.log10(top.rms / far.rms) if far.rms > 0 else UNDERFLOWN
        rows[str(name)].append((loss, int(step), int(length), top, far))
    found = [_profile(name, own) for name, own in rows.items() if len(own) >= LEAST]
    return tuple(sorted(found, key=lambda profile: -profile.decades))


def _profile(name: str, rows: list[tuple[float, int, int, Bin, Bin]]) -> TimeProfile:
    # a row that was measured, not a mean of two: its bins are the numbers that a reader divides
    ordered = sorted(rows, key=lambda row: row[0])
    decades, _, length, top, far = ordered[(len(ordered) - 1) // 2]
    by_step = sorted(rows, key=lambda row: row[1])
    steps, losses = tuple(row[1] for row in by_step), tuple(row[0] for row in by_step)
    return TimeProfile(name, length, decades, top, far, steps, losses)


__all__ = ["LEAST", "UNDERFLOWN", "Bin", "TimeProfile", "time_profiles"]
