"""Which steps a measure looks at: windows counted in steps, never in seconds.

A window ends before the first step that holds a NaN or an Inf: after it every ratio is undefined
and every unit looks dead, so a rule that looked at those steps would blame the wrong thing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradscope.diagnose.once import once
from gradscope.recording.reader import Recording

Steps = npt.NDArray[np.int64]

FIRST = 5
"""Sampled steps in a first window: what the initialisation gave, before training changed it."""
LAST = 20
"""Sampled steps in a last window. Of 123 healthy ReLU runs 41 % had a layer with more than 10 %
dead units when one step was looked at, 15 % with 20 (docs/why/signals.md, "Units")."""
NORMAL_SKIPS = 20
"""A loss scaler starts far too high and skips its first steps on purpose; more skipped steps in a
row than this at the end of a run are a fault. GradScaler starts at 2**16 and halves at each skip,
so that 17 skips bring it to 1."""


@once
def sampled_steps(recording: Recording, table: str) -> Steps:
    """The different steps on which ``table`` (a row table) was recorded, ascending."""
    return np.unique(getattr(recording, table)["step"].to_numpy(np.int64))


def steps_seen(recording: Recording) -> int:
    """Number of optimizer steps that were not skipped by a loss scaler."""
    steps = recording.steps
    return int((~steps["skipped"].fillna(False).astype(bool)).sum())


def last_step(recording: Recording) -> int:
    """Ordinal of the last step seen, 0 if there was none."""
    return int(recording.steps["step"].max()) if len(recording.steps) else 0


@once
def skipped_steps(recording: Recording) -> frozenset[int]:
    """Steps that a loss scaler skipped and from which the run recovered.

    Empty when the run ends in more than ``NORMAL_SKIPS`` skipped steps: then they are no adaptation
    of the scale, but a training that stands still.
    """
    steps = recording.steps
    skipped = steps["skipped"].fillna(False).to_numpy(bool)
    trailing = len(skipped) - (np.flatnonzero(~skipped).max(initial=-1) + 1)
    if trailing > NORMAL_SKIPS:
        return frozenset()
    return frozenset(int(step) for step in steps["step"].to_numpy()[skipped])


@once
def first_nonfinite(recording: Recording) -> int | None:
    """The first step with a NaN or an Inf that no loss scaler absorbed, or None."""
    found: list[int] = []
    absorbed = skipped_steps(recording)
    alarms = recording.alarms
    kinds = alarms["kind"].astype(str).str.endswith("-nonfinite")
    found += [int(step) for step in alarms["step"][kinds] if int(step) not in absorbed]
    steps = recording.steps
    loss = steps["loss"].to_numpy(float)
    known = steps["site"].notna().to_numpy(bool)
    # a loss that was not seen reads as NaN, too: only one after a finite loss of its site is judged
    seen: set[str] = set()
    for step, value, site, present in zip(steps["step"], loss, steps["site"], known, strict=True):
        if present and np.isfinite(value):
            seen.add(site)
        elif present and (np.isinf(value) or site in seen) and int(step) not in absorbed:
            found.append(int(step))
            break
    return min(found, default=None)


def before_trouble(recording: Recording, steps: Steps) -> Steps:
    """Those of ``steps`` before the first non-finite one."""
    end = first_nonfinite(recording)
    return steps if end is None else steps[steps < end]


def first_window(recording: Recording, table: str, size: int = FIRST) -> Steps:
    """The first ``size`` sampled steps of ``table`` before the first non-finite one."""
    return before_trouble(recording, sampled_steps(recording, table))[:size]


def last_window(recording: Recording, table: str, size: int = LAST) -> Steps:
    """The last ``size`` sampled steps of ``table`` before the first non-finite one."""
    return before_trouble(recording, sampled_steps(recording, table))[-size:]


@once
def warm_up(recording: Recording) -> int:
    """Steps over which the learning rate rises at the start of the run; 0 without a warm-up.

    A warm-up is a learning rate that begins below half of its largest value and does not fall
    before it reaches that (the largest rate over the parameter groups is followed).
    """
    rates = []
    for cell in recording.steps["lr"]:
        values = [float(v) for v in cell or [] if v is not None] if isinstance(cell, list) else []
        rates.append(max(values, default=np.nan))
    rate = np.asarray(rates, float)
    if not len(rate) or not np.isfinite(rate).all():
        return 0
    top = int(np.argmax(rate))
    # the largest rate may be held for the rest of the run: its first step ends the warm-up
    if top == 0 or rate[0] >= 0.5 * rate[top] or (np.diff(rate[: top + 1]) < 0).any():
        return 0
    return top + 1
