"""What trials are made of: their limits, their options, and the record of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradscope.advise.fix import Treatment
from gradscope.advise.verdict import Measure, Run, Yardstick, tail
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Fix, Reach, Trial, TrialStatus


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is tried: steps of a training, seeds, seconds in all."""

    steps: int = 60
    seeds: int = 3
    budget: float = 120.0


@dataclass(frozen=True, slots=True)
class Option:
    """A fix, as one of its variants makes it, and how to try it.

    Attributes:
        fix: the fix.
        treatment: its change of a live training.
        direct: whether it removes the cause that the finding names.
    """

    fix: Fix
    treatment: Treatment
    direct: bool = False


Options = tuple[tuple[tuple[Option, ...], ...], ...]
"""For each finding its fixes, for each fix its variants, the likeliest first."""


def untried(diagnosis: Diagnosis, reason: str) -> Diagnosis:
    """The diagnosis with every fix not tried, and why."""
    trial = Trial("not-tried", reason)
    return diagnosis.with_findings(
        tuple(
            finding.with_fixes(tuple(replace(fix, trial=trial) for fix in finding.fixes))
            for finding in diagnosis.findings
        )
    )


def trial_of(status: TrialStatus, reason: str, controls: Sequence[Run], treated: Sequence[Run],
           measure: Measure, yardstick: Yardstick) -> Trial:  # fmt: skip
    """The record of a trial, with its curves."""
    before = dict(controls[0].sizes)
    return Trial(
        status=status,
        reason=reason,
        seeds=len(treated),
        steps=yardstick.steps,
        loss_control=tuple(tail(run, measure, yardstick.steps) for run in controls),
        loss_treated=tuple(tail(run, measure, yardstick.steps) for run in treated),
        measure=measure,
        curves_control=tuple(run.curve(measure) for run in controls),
        curves_treated=tuple(run.curve(measure) for run in treated),
        reach=tuple(
            Reach(name, before.get(name, math.nan), size) for name, size in treated[0].sizes
        ),
    )


def unusable(control: Run | None) -> str:
    """Why a control is no ground for a trial, "" where it is one."""
    if control is None:
        return "the budget was used up"
    if control.several:
        return "several optimizers take turns, and a lower loss is not better there"
    if not control.losses:
        what = control.crashed or "no optimizer step was seen"
        return f"the unchanged training could not be run again: {what}"
    if all(math.isnan(loss) for loss in control.losses):
        return "no scalar loss was seen in the unchanged training"
    return ""


def same(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two trainings had the same losses, as far as both went."""
    # bit for bit, but the self-test may have stopped at a step that the control did not reach
    count = min(len(first), len(second))
    return count > 0 and all(
        a == b or (math.isnan(a) and math.isnan(b))
        for a, b in zip(first[:count], second[:count], strict=True)
    )


def as_share(run: Run) -> Run:
    """A run whose losses are shares of its first one."""
    first = next((loss for loss in run.losses if math.isfinite(loss) and loss), math.nan)
    return replace(run, losses=tuple(loss / abs(first) for loss in run.losses))
