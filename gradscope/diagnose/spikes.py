"""Single steps whose gradient stands out of the steps before them, and what the loss did then.

A step is scored against a history that excludes it, on a log scale (gradient norms are skewed), by
median and median absolute deviation, which an earlier spike in the history hardly moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gradscope.diagnose import windows
from gradscope.diagnose.growth import total_norm
from gradscope.diagnose.learning import EXCESS, LossCurve, loss_curve
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]

HISTORY = 50
"""Steps before a step that it is compared with; the trip-wire's length (observe/birth/wire.py)."""
LEAST_HISTORY = 20
"""Fewer than this are no yardstick; the trip-wire's limit, too."""
SURE = 0.01
"""Chance that any step of a run of independent log-normal norms counts as a spike: divided by the
number of steps that are scored (Bonferroni), so that a long run has no more of them."""
LEAST_SCATTER = math.log(1.1)
"""Scatter of the log norm that is assumed at least: a full batch has none at all. Ours."""
ONSET = 10.0
"""Loss of a single batch over the largest of the 20 before, from which the batch is what changed.
Ours: the same factor as for the gradient (docs/why/terms_spikes_spread.md, "Batches that end a
run")."""
BEFORE = 20
"""Losses before a spike that those after it are compared with."""
AFTER = 5
"""Losses after a spike whose median tells whether it did harm. The median of 5 is above all of 20
earlier ones with a chance of 0.4 % where nothing has changed (10 / 2,300 by counting ranks)."""


@dataclass(frozen=True, slots=True)
class Spike:
    """One step that stands out.

    Attributes:
        step: the step.
        size: its gradient norm (where none is known its loss) over the median of its history.
        score: standard scatters above that median, on a log scale.
        limit: the score that a run of this length needs.
        by_norm: whether ``size`` is of the gradient norm.
        clipped: whether a clip call made this step's gradient smaller.
        lr_jump: the learning rate over its median of the 5 steps before; NaN where unknown.
        before: median loss of the steps before it; NaN where unknown.
        ceiling: the largest of those losses.
        after: median loss of the steps just after it; NaN where fewer than 5 follow.
        recovered: steps until the median of 5 losses was below ``ceiling`` again; None: not within
            the steps looked at.
        looked: steps with a loss after the spike.
        jump: loss of the step itself over the largest of those before; NaN where unknown.
        level: median of those before over the trivial loss; NaN where unknown.
        ended: steps from it to the first non-finite value; None: there is none.
    """

    step: int
    size: float
    score: float
    limit: float
    by_norm: bool
    clipped: bool
    lr_jump: float
    before: float
    ceiling: float
    after: float
    recovered: int | None
    looked: int
    jump: float
    level: float
    ended: int | None

    @property
    def broke(self) -> bool:
        """Whether the run ended in NaN or Inf for it.

        The step's own batch then had a loss far above all before it, in a training that had
        learned until then: weights that run away are no better than a constant answer before.
        """
        near = self.ended is not None and self.ended <= AFTER
        return near and self.jump > ONSET and self.level <= EXCESS

    @property
    def harmed(self) -> bool:
        """Whether the losses just after it are above all of those before."""
        return self.after > self.ceiling


def spikes(recording: Recording, factor: float) -> tuple[int, tuple[Spike, ...]]:
    """Steps whose gradient norm is more than ``factor`` times that of the steps before.

    Returns:
        the number of steps that could be scored, and the spikes among them in order.
    """
    curve = loss_curve(recording)
    skipped = windows.skipped_steps(recording)
    end = windows.first_nonfinite(recording)
    steps, values, by_norm = _series(recording, curve)
    usable = (values > 0) & np.isfinite(values) & ~np.isin(steps, [*skipped])
    if end is not None:
        usable &= steps < end
    steps, log = steps[usable], np.log(values[usable])
    scored = max(0, len(log) - LEAST_HISTORY)
    if not scored:
        return 0, ()
    limit = NormalDist().inv_cdf(1 - SURE / scored)
    found = []
    rises = log[LEAST_HISTORY:] - _running_median(log)
    for at in (LEAST_HISTORY + np.flatnonzero(rises > math.log(factor))).tolist():
        history, rise = log[max(0, at - HISTORY) : at], float(rises[at - LEAST_HISTORY])
        middle = float(log[at]) - rise
        # 1.4826 makes the median absolute deviation of a normal sample its standard deviation
        scatter = max(1.4826 * float(np.median(np.abs(history - middle))), LEAST_SCATTER)
        if rise > limit * scatter:
            step = int(steps[at])
            found.append(
                Spike(
                    step, math.exp(rise), rise / scatter, limit, by_norm, _clipped(recording, step),
                    _lr_jump(recording, step), *_losses(curve, step, end),
                    *_jump(curve, step), None if end is None else end - step,
                )
            )  # fmt: skip
    return scored, tuple(found)


def _running_median(log: Floats) -> Floats:
    """Median of up to HISTORY values before each, from the LEAST_HISTORY-th on."""
    short = [np.median(log[:at]) for at in range(LEAST_HISTORY, min(HISTORY, len(log)))]
    if len(log) <= HISTORY:
        return np.array(short)
    # all windows at once: of a hundred thousand steps, one by one, they would take seconds
    whole = np.median(np.lib.stride_tricks.sliding_window_view(log[:-1], HISTORY), axis=1)
    return np.concatenate([short, whole])


def _series(recording: Recording, curve: LossCurve) -> tuple[windows.Steps, Floats, bool]:
    """Norms where most steps have one; else losses, which are known on every step."""
    steps, norm = total_norm(recording)
    if 2 * len(steps) >= len(curve.steps):
        return steps, norm, True
    return curve.steps.astype(np.int64), curve.loss, False


def _losses(
    curve: LossCurve, step: int, end: int | None
) -> tuple[float, float, float, int | None, int]:
    """Before, ceiling, after, recovered, looked: see ``Spike``."""
    known = np.isfinite(curve.loss)
    if end is not None:
        known &= curve.steps < end
    at, loss = curve.steps[known], curve.loss[known]
    before, after = loss[at < step][-BEFORE:], loss[at > step]
    if len(before) < AFTER or len(after) < AFTER:
        return math.nan, math.nan, math.nan, None, len(after)
    ceiling = float(before.max())
    medians = np.median(np.lib.stride_tricks.sliding_window_view(after, AFTER), axis=1)
    back = np.flatnonzero(medians <= ceiling)
    recovered = int(back[0]) + AFTER if len(back) else None
    return float(np.median(before)), ceiling, float(medians[0]), recovered, len(after)


def _jump(curve: LossCurve, step: int) -> tuple[float, float]:
    """``jump`` and ``level`` of ``Spike``."""
    before, own = curve.loss[curve.steps < step][-BEFORE:], curve.loss[curve.steps == step]
    if len(before) < AFTER or not len(own) or not before.max() > 0:
        return math.nan, math.nan
    return float(own[0] / before.max()), float(np.median(before)) / curve.baseline_as_loss


def _clipped(recording: Recording, step: int) -> bool:
    rows = recording.steps
    rows = rows[rows["step"] == step]
    return bool((rows["norm_before_clip"] > rows["clip_limit"]).any())


def _lr_jump(recording: Recording, step: int) -> float:
    rows = recording.steps
    near = rows[(rows["step"] <= step) & (rows["step"] >= step - 5)]
    rates = [max(cell) for cell in near["lr"] if isinstance(cell, list) and cell]
    if len(rates) < 2 or not np.median(rates[:-1]) > 0:
        return math.nan
    return float(rates[-1] / np.median(rates[:-1]))
