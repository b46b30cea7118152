"""Which layer's gradient grew first on the way to a NaN or Inf, and by what factor per step.

Each gradient is compared with its own earlier behaviour, since layers differ in size by orders of
magnitude. Full statistics come from the sampled steps; of the steps between, the trip-wire has read
a few elements of a few gradients, which are kept with the alarm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradscope.diagnose import windows
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
WINDOW = 64
"""Steps before the end that are looked at: those that the trip-wire keeps."""
LEAST = 4
"""Points of a series from which anything is said."""
GROWN = 10.0
"""Times its own earlier size at which a gradient has grown: the trip-wire's limit for a jump."""
BAND = 3.0
"""Robust standard deviations that a gradient must leave its earlier band by."""


@dataclass(frozen=True, slots=True)
class Growth:
    """The last steps of one parameter's gradient.

    Attributes:
        parameter: its name.
        steps, rms: root mean square of the gradient by step.
        began: the first step of an unbroken growth up to the end; None: it did not grow.
        factor: per step, from there to the last step.
        times: last over earlier size.
    """

    parameter: str
    steps: tuple[int, ...]
    rms: tuple[float, ...]
    began: int | None
    factor: float
    times: float


def layer_growth(recording: Recording, end: int) -> tuple[Growth, ...]:
    """The run-up to step ``end``: those that grew come first, the earliest at the head."""
    series = _series(recording, end)
    growths = [_growth(name, points) for name, points in series.items() if len(points) >= LEAST]
    order = sorted(
        range(len(growths)),
        key=lambda i: (growths[i].began is None, growths[i].began or 0, -growths[i].times),
    )
    return tuple(growths[i] for i in order)


def first_grown(recording: Recording, end: int) -> Growth | None:
    """The parameter whose gradient grew first before step ``end``; None if none did."""
    head = next(iter(layer_growth(recording, end)), None)
    return head if head is not None and head.began is not None else None


def _series(recording: Recording, end: int) -> dict[str, dict[int, float]]:
    series: dict[str, dict[int, float]] = defaultdict(dict)
    names = recording.parameter_names
    alarms = recording.alarms
    for step, cell in zip(alarms["step"], alarms["run_up"], strict=True):
        if not isinstance(cell, list) or int(step) > end:
            continue
        for entry in cell:
            for identity, rms in _given(entry).items():
                if end - WINDOW <= entry["step"] < end and int(identity) in names:
                    series[names[int(identity)]][int(entry["step"])] = float(rms)
    # the whole gradient knows better than a few of its elements
    rows = recording.gradients
    rows = rows[(rows["step"] >= end - WINDOW) & (rows["step"] < end) & (rows["rms"] > 0)]
    for name, step, rms in zip(rows["parameter"], rows["step"], rows["rms"], strict=True):
        series[str(name)][int(step)] = float(rms)
    return {
        name: {step: rms for step, rms in points.items() if 0 < rms < np.inf}
        for name, points in series.items()
    }


def _given(entry: Any) -> Mapping[str, float]:
    found = entry.get("rms") if isinstance(entry, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _growth(name: str, points: Mapping[int, float]) -> Growth:
    steps = np.array(sorted(points))
    rms = np.array([points[int(step)] for step in steps])
    logs = np.log(rms)
    early = logs[: max(3, len(logs) // 3)]
    middle = float(np.median(early))
    # 1.4826 makes the median absolute deviation of a normal distribution its standard deviation
    spread = 1.4826 * float(np.median(np.abs(early - middle)))
    # what the first half has reached before is no growth
    limit = max(middle + max(BAND * spread, np.log(2.0)), float(logs[: len(logs) // 2].max()))
    times = float(np.exp(logs[-1] - middle))
    began: int | None = None
    factor = 1.0
    above = logs > limit
    if above[-1] and times >= GROWN:
        calm = np.flatnonzero(~above)
        start = int(calm[-1]) if len(calm) else 0
        began = int(steps[min(start + 1, len(steps) - 1)])
        length = int(steps[-1] - steps[start])
        factor = float(np.exp((logs[-1] - logs[start]) / length)) if length else times
    return Growth(name, tuple(map(int, steps)), tuple(map(float, rms)), began, factor, times)


def end_of(recording: Recording) -> int | None:
    """The first non-finite step, to which there is a run-up; None if there is none."""
    return windows.first_nonfinite(recording)
