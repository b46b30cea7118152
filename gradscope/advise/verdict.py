"""From the losses of control and treated trainings to a verdict. Pure: curves in, words out.

The rule and its limits were measured over 28 scripts with known faults and without (62 self-tests,
203 placebos; docs/fixes.md): with three seeds it called none of 203 harmless edits a help.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradscope.diagnose.finding import TrialStatus

Measure = Literal["loss", "error"]

SEPARATION = 0.8
"""The worst treated seed must end below this share of the best control seed."""
STUCK_SEPARATION = 0.9
"""... where every control seed is stuck where it began: such runs differ by less than 7 % from seed
to seed, and a task whose best loss is far above zero has no room for more in so few steps."""
FALLEN = 0.9
"""... and below this share of where the control began, or of what a constant answer costs."""
FAILING = 0.7
"""A control that ends above this share of what a constant answer costs fails: from 50 steps on this
finds .98 of sick trainings with .01 false alarms (docs/why/signals.md, "Gate")."""
TAIL = 0.2
"""Share of the steps over whose end the median is taken; the last step alone misleads (11 of 83
placebos passed with it)."""
WHOLE = 0.9
"""A training that ended before this share of its steps has failed."""


@dataclass(frozen=True)
class Run:
    """One training of a trial.

    Attributes:
        losses, errors: on each step; see ``observe.steering.Step``.
        crashed: why it ended early, "" where it did not.
        applied: whether every change found its place.
        several: whether more than one optimizer stepped.
        sizes: gradient that reaches each layer on the last step.
        still: parameters that are bit for bit what they were before the first step.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...] = ()
    crashed: str = ""
    applied: bool = True
    several: bool = False
    sizes: tuple[tuple[str, float], ...] = ()
    still: frozenset[str] = frozenset()

    def curve(self, measure: Measure) -> tuple[float, ...]:
        """The values of a measure on each step."""
        return self.losses if measure == "loss" else self.errors


@dataclass(frozen=True)
class Yardstick:
    """What the trainings of one trial are measured by.

    Attributes:
        steps: of each training.
        trivial: what a constant answer costs, in units of the loss; NaN if unknown.
        proved: whether the finding itself proves that the control fails (a certainty).
    """

    steps: int
    trivial: float = math.nan
    proved: bool = False

    def start(self, control: Run, measure: Measure) -> float:
        """Where the control began, capped at what a constant answer costs.

        A badly scaled start lies far above it, and coming down from there is not learning.
        """
        first = [v for v in control.curve(measure)[:3] if math.isfinite(v)]
        begun = statistics.median(first) if first else math.inf
        if measure == "loss" and math.isfinite(self.trivial):
            return min(begun, self.trivial)
        return begun


def tail(run: Run, measure: Measure, steps: int) -> float:
    """Median of the last fifth of the steps; infinite where it crashed or is not finite."""
    values = run.curve(measure)
    if len(values) < WHOLE * steps or not values:
        return math.inf
    last = values[-max(1, round(TAIL * len(values))) :]
    if any(not math.isfinite(v) for v in run.losses[-len(last) :]):
        return math.inf
    return statistics.median(last)


def fails(control: Run, measure: Measure, yardstick: Yardstick) -> bool:
    """Whether a control does not learn."""
    end = tail(control, measure, yardstick.steps)
    if not math.isfinite(end):
        return True
    start = yardstick.start(control, measure)
    known = measure == "loss" and math.isfinite(yardstick.trivial)
    return end > (FAILING * yardstick.trivial if known else FALLEN * start)


def measure_of(controls: Sequence[Run], rescales: bool) -> Measure:
    """The measure that both arms share."""
    seen = [v for run in controls for v in run.errors if math.isfinite(v)]
    return "error" if rescales and seen else "loss"


def separated(controls: Sequence[Run], treated: Sequence[Run], measure: Measure,
              yardstick: Yardstick) -> bool:  # fmt: skip
    """Whether every treated seed ends clearly below every control seed."""
    befores = [tail(run, measure, yardstick.steps) for run in controls]
    best = min(befores)
    ends = [tail(run, measure, yardstick.steps) for run in treated]
    worst = max(ends)
    if not math.isfinite(worst):
        return False
    starts = [yardstick.start(run, measure) for run in controls]
    stuck = all(FALLEN * s < end < s / FALLEN for s, end in zip(starts, befores, strict=True))
    share = STUCK_SEPARATION if stuck else SEPARATION
    # a loss below zero has no ratio; a control that diverged is beaten by what learns
    if math.isfinite(best) and (worst >= best or (best > 0 and worst >= share * best)):
        return False
    return all(
        not math.isfinite(start) or end < (FALLEN * start if start > 0 else start)
        for end, start in zip(ends, starts, strict=False)
    )


def judge(controls: Sequence[Run], treated: Sequence[Run], measure: Measure,
          yardstick: Yardstick) -> tuple[TrialStatus, str]:  # fmt: skip
    """The verdict over the seeds that both arms have, and its reason."""
    crashed = next((run.crashed for run in treated if run.crashed), "")
    if crashed and not any(run.crashed for run in controls):
        return "failed", f"the changed training could not be run: {crashed}"
    ends = [tail(run, measure, yardstick.steps) for run in treated]
    befores = [tail(run, measure, yardstick.steps) for run in controls]
    if all(map(math.isinf, ends)) and not all(map(math.isinf, befores)):
        return "hurt", "with the change the loss is no longer finite"
    unit = " (share of wrong answers, because the change gives the loss another scale)"
    note = unit if measure == "error" else ""
    if separated(controls, treated, measure, yardstick):
        failing = sum(fails(run, measure, yardstick) for run in controls)
        if yardstick.proved or 2 * failing > len(controls):
            return "helped", _helped(befores, ends, measure) + note
        return "no-effect", f"trains faster, no fault proved{note}"
    if separated(treated, controls, measure, yardstick) or min(ends) * SEPARATION > max(befores):
        return "hurt", f"it trains worse with the change{note}"
    if all(map(math.isinf, befores)) and all(map(math.isinf, ends)):
        return "no-effect", "the loss is no longer finite with the change either"
    stood = frozenset.intersection(*(run.still for run in controls))
    moved = stood.difference(*(run.still for run in treated))
    if yardstick.proved and moved:
        count = f"{len(moved)} parameter{'s' if len(moved) > 1 else ''} that never moved"
        return "no-effect", (
            f"{count} train{'' if len(moved) > 1 else 's'} now, and the loss shows no clear "
            f"difference within {yardstick.steps} steps{note}"
        )
    return "no-effect", f"no clear difference within {yardstick.steps} steps{note}"


def _helped(befores: Sequence[float], ends: Sequence[float], measure: Measure) -> str:
    what = "the loss" if measure == "loss" else "the error"
    if not any(map(math.isfinite, befores)):
        return f"{what} stays finite and falls on each seed, without the change on none"
    return f"{what} ends lower on each seed than without the change on any"


def effect(run: Run, control: Run, measure: Measure, yardstick: Yardstick) -> float:
    """Share of the start that is left at the end: the smaller the better."""
    end = tail(run, measure, yardstick.steps)
    start = yardstick.start(control, measure)
    if not math.isfinite(end):
        return math.inf
    return end / start if math.isfinite(start) and start > 0 else end


def learnt(run: Run, control: Run, measure: Measure, yardstick: Yardstick) -> float:
    """Share of the start that is gone at the end; NaN where the start is no measure."""
    start = yardstick.start(control, measure)
    if not math.isfinite(start) or start <= 0:
        return math.nan
    return 1 - tail(run, measure, yardstick.steps) / start
