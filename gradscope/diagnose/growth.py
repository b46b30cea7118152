"""The run-up: how the gradient's total norm and the loss grew over the run.

A window is compared with an earlier one that it does not overlap, so that a growing series never
raises its own yardstick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradscope.diagnose import windows
from gradscope.diagnose.learning import LossCurve, loss_curve
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
EARLY = 5
"""Steps of the first window; with three or fewer steps before the end, the first step alone."""
LATE = 5
"""Steps of the last window, and of the sliding one for the peak."""


@dataclass(frozen=True, slots=True)
class RunUp:
    """How the run grew.

    Attributes:
        nonfinite: the first step with a NaN or an Inf, or None.
        steps: steps on which the total norm is known (before clipping, where a clip call computed
            it).
        norm: the total norm of the gradient on those steps.
        early_norm: median of the first steps' norms; NaN if there are none.
        peak_norm: largest median of neighbouring steps' norms after the first ones.
        norm_growth: ``peak_norm / early_norm``.
        peak_step: step about which the norm is largest.
        loss_start: the larger of the trivial loss and the median of the first losses.
        loss_end: the median of the last finite losses.
        loss_growth: ``loss_end / loss_start``; NaN where the loss may be negative.
        parameter: name of the parameter with the largest gradient norm about ``peak_step``, "" if
            parameters were not sampled there.
    """

    nonfinite: int | None
    steps: tuple[int, ...]
    norm: tuple[float, ...]
    early_norm: float
    peak_norm: float
    norm_growth: float
    peak_step: int
    loss_start: float
    loss_end: float
    loss_growth: float
    parameter: str


def run_up(recording: Recording) -> RunUp:
    """How the gradient and the loss grew, up to the first non-finite step."""
    end = windows.first_nonfinite(recording)
    steps, norm = total_norm(recording)
    finite = np.isfinite(norm)
    if end is not None:
        # the gradient on the last step before the end belongs to the run-up, that of the step
        # itself is what is explained
        finite &= steps < end
    steps, norm = steps[finite], norm[finite]
    early, rest = _split(len(norm), EARLY)
    early_norm = float(np.median(norm[early])) if len(norm) else math.nan
    peak_norm, peak_at = _peak(norm[rest])
    peak_step = int(steps[rest][peak_at]) if len(norm[rest]) else 0
    start, last = _loss_growth(loss_curve(recording), end)
    return RunUp(
        nonfinite=end,
        steps=tuple(int(s) for s in steps),
        norm=tuple(float(n) for n in norm),
        early_norm=early_norm,
        peak_norm=peak_norm,
        norm_growth=peak_norm / early_norm if early_norm > 0 else math.nan,
        peak_step=peak_step,
        loss_start=start,
        loss_end=last,
        loss_growth=last / start if start > 0 and last > 0 else math.nan,
        parameter=_largest(recording, peak_step),
    )


def total_norm(recording: Recording) -> tuple[windows.Steps, Floats]:
    """Steps and the gradient's total norm: before clipping where it is known, else as sampled."""
    steps = recording.steps
    at = steps["step"].to_numpy(np.int64)
    norm = steps["norm_before_clip"].fillna(steps["norm"]).to_numpy(float)
    if np.isnan(norm).all() and len(recording.gradients):
        total = np.sqrt(recording.gradients.groupby("step")["sum_sq"].sum())
        return total.index.to_numpy(np.int64), total.to_numpy(float)
    known = ~np.isnan(norm)
    return at[known], norm[known]


def _split(length: int, early: int) -> tuple[slice, slice]:
    size = early if length > 2 * early else 1
    return slice(0, size), slice(size, length)


def _peak(norm: Floats) -> tuple[float, int]:
    """Largest median over LATE neighbours (fewer where there are fewer), and its middle."""
    if not len(norm):
        return math.nan, 0
    if len(norm) <= LATE:
        # a run that ends within a few steps has no neighbours to be compared with
        return float(norm.max()), int(norm.argmax())
    windowed = np.median(np.lib.stride_tricks.sliding_window_view(norm, LATE), axis=1)
    top = int(windowed.argmax())
    return float(windowed[top]), top + LATE // 2


def _loss_growth(curve: LossCurve, end: int | None) -> tuple[float, float]:
    usable = np.isfinite(curve.loss)
    if end is not None:
        usable &= curve.steps < end
    loss = curve.loss[usable]
    if not len(loss):
        return math.nan, math.nan
    early, rest = _split(len(loss), EARLY)
    start = float(np.median(loss[early]))
    if curve.baseline_as_loss > 0:
        start = max(start, curve.baseline_as_loss)
    # before a non-finite step the very last loss tells; in a run that goes on, one loss is noise
    late = loss[rest][-1:] if end is not None else loss[rest][-LATE:]
    return start, float(np.median(late)) if len(late) else math.nan


def _largest(recording: Recording, step: int) -> str:
    rows = recording.gradients
    rows = rows[(rows["nonfinite"] == 0) & (rows["count"] > 0)]
    if not len(rows):
        return ""
    nearest = int(rows["step"].iloc[(rows["step"] - step).abs().argmin()])
    rows = rows[rows["step"] == nearest]
    return str(rows["parameter"].iloc[int(rows["sum_sq"].to_numpy().argmax())])
