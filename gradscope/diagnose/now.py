"""How a running training stands: what its recording says at this moment. Pure; judges nothing."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from gradscope.observe.birth.wire import ALARMS_PER_KIND
from gradscope.recording.facts import State
from gradscope.recording.reader import Recording

Status = Literal["running", "finished", "interrupted", "failed", "broken off"]

TAIL = 2_000
"""Last steps whose losses and norms are kept for a picture."""
RATE = 20
"""Steps over which the speed is taken."""
WORST = 8
"""Parameters that are listed."""
USUAL = 1e-3
"""Update ratio that trainings usually have; a rule of thumb, here only for the order of a list."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter at the last sampled step.

    Attributes:
        name: the parameter.
        state: ``finite``, ``zero``, ``none``, ``frozen`` or ``non-finite``.
        gradient: RMS of its gradient; NaN where there is none.
        ratio: its update ratio; NaN where it was not recorded.
    """

    name: str
    state: str
    gradient: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Alarms of one kind on steps that follow each other.

    Attributes:
        step, last: the first and the last of them.
        text: in words.
        cut: no more of its kind are recorded, so that ``last`` says nothing of its end.
    """

    step: int
    last: int
    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Now:
    """A training at one moment; NaN and -1 stand for what is not known.

    Attributes:
        status: ``broken off`` is a writer that is gone and said no end.
        reason: why it ended, or "".
        target: what is trained.
        step: last step that was seen.
        steps: number of steps seen.
        seconds: time since the recording began, at the last step.
        loss, norm: at the last step that has one.
        rates: learning rates of the last step.
        speed: steps a second.
        cost: gradscope's own time as a share of the training's.
        losses, norms: ``(step, value)`` of the last steps.
        worst: parameters in the order in which one would look at them.
        alarms: all of them, oldest first.
        sampled: last step on which parameters were recorded.
        lost: what could not be read.
    """

    status: Status
    reason: str
    target: str
    step: int
    steps: int
    seconds: float
    loss: float
    norm: float
    rates: tuple[float, ...]
    speed: float
    cost: float
    losses: tuple[tuple[int, float], ...]
    norms: tuple[tuple[int, float], ...]
    worst: tuple[Weight, ...]
    alarms: tuple[Alarm, ...]
    sampled: int
    lost: tuple[str, ...]

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.status != "running"


def now(recording: Recording) -> Now:
    """What a recording says at this moment."""
    run, steps = recording.run, recording.steps
    losses, norms = _curve(steps, "loss", "site"), _curve(steps, "norm", None)
    timed = steps[["own_seconds", "step_seconds"]].dropna()
    whole = float(timed["step_seconds"].sum())
    recent = timed["step_seconds"].tail(RATE)
    pause = float(recent.mean()) if len(recent) else math.nan
    status, reason = _status(recording)
    rates = steps["lr"].iloc[-1] if len(steps) else None
    weights, sampled = _weights(recording)
    return Now(
        status=status, reason=reason, target=str(run.get("target") or ""),
        step=int(steps["step"].iloc[-1]) if len(steps) else -1, steps=len(steps),
        seconds=float(steps["time"].iloc[-1]) if len(steps) else math.nan,
        loss=losses[-1][1] if losses else math.nan, norm=norms[-1][1] if norms else math.nan,
        rates=tuple(float(r) for r in rates) if isinstance(rates, list) else (),
        speed=1 / pause if pause > 0 else math.nan,
        cost=float(timed["own_seconds"].sum()) / whole if whole > 0 else math.nan,
        losses=losses, norms=norms, worst=weights, alarms=_alarms(recording), sampled=sampled,
        lost=recording.lost,
    )  # fmt: skip


def _status(recording: Recording) -> tuple[Status, str]:
    run = recording.run
    if run.get("failed"):
        return "failed", str(run["failed"])
    if run.get("interrupted"):
        return "interrupted", str(run["interrupted"])
    if run.get("finished"):
        return "finished", ""
    if recording.alive:
        return "running", ""
    return "broken off", (
        "the process that wrote it is gone and said no end: it was killed, or its machine stopped"
    )


def _curve(steps: pd.DataFrame, column: str, known: str | None) -> tuple[tuple[int, float], ...]:
    rows = steps if known is None else steps[steps[known].notna()]
    if known is not None and len(rows):
        # several losses (a GAN) are not comparable: the one that was stepped most
        rows = rows[rows[known] == rows[known].value_counts(sort=False).idxmax()]
    if known is None:
        rows = rows[rows[column].notna()]
    rows = rows.tail(TAIL)
    return tuple(
        (int(s), float(v)) for s, v in zip(rows["step"], rows[column].to_numpy(float), strict=True)
    )


def _weights(recording: Recording) -> tuple[tuple[Weight, ...], int]:
    gradients = recording.gradients
    if gradients.empty:
        return (), -1
    last = int(gradients["step"].max())
    rows = gradients[gradients["step"] == last]
    updates = recording.updates
    ratios = updates[updates["step"] == updates["step"].max()].set_index("parameter_id")["ratio"]
    words = {
        int(State.FINITE): "finite", int(State.NONE): "none", int(State.EXACT_ZERO): "zero",
        int(State.FROZEN): "frozen", int(State.NON_FINITE): "non-finite",
    }  # fmt: skip
    found = []
    for row in rows.itertuples():
        state = words.get(int(row.state), "finite")
        has = state in ("finite", "zero", "non-finite")
        ratio = float(ratios.get(row.parameter_id, math.nan))
        found.append(Weight(str(row.parameter), state, float(row.rms) if has else math.nan, ratio))
    return tuple(sorted(found, key=_urgency)[:WORST]), last


def _urgency(weight: Weight) -> tuple[int, float]:
    """What one would look at first: what is not finite, what gets nothing, what moves oddly."""
    order = {"non-finite": 0, "none": 1, "zero": 2, "finite": 3, "frozen": 4}[weight.state]
    ratio = weight.ratio
    if not ratio > 0 or not math.isfinite(ratio):
        return order, 0.0
    return order, -abs(math.log10(ratio / USUAL))


def _alarms(recording: Recording) -> tuple[Alarm, ...]:
    words = {
        "loss-nonfinite": "the loss is not finite",
        "gradient-nonfinite": "a gradient is not finite",
        "parameter-nonfinite": "a parameter is not finite",
        "activation-nonfinite": "an activation is not finite",
        "loss-jump": "the loss has jumped", "norm-jump": "the gradient's norm has jumped",
    }  # fmt: skip
    found: dict[str, list[Alarm]] = {}
    for row in recording.alarms.to_dict("records"):
        kind, step = str(row["kind"]), int(row["step"])
        known = found.setdefault(kind, [])
        if known and step - known[-1].last <= 1:
            known[-1] = replace(known[-1], last=step)
            continue
        value, limit = float(row["value"]), float(row["limit"])
        text = words.get(kind, kind) + _place(recording, row)
        if "jump" in kind and np.isfinite(value):
            text += f" to {value:.4g}"
            text += f" (limit {limit:.4g})" if np.isfinite(limit) else ""
        known.append(Alarm(step, step, text))
    counts = recording.alarms["kind"].value_counts()
    for kind, known in found.items():
        if counts[kind] >= ALARMS_PER_KIND:
            known[-1] = replace(known[-1], cut=True)
    return tuple(sorted((a for each in found.values() for a in each), key=lambda a: a.step))


def _place(recording: Recording, row: dict[Hashable, Any]) -> str:
    for column, names in (
        ("parameter", recording.parameter_names), ("module", recording.module_names),
    ):  # fmt: skip
        identity = row.get(column)
        if identity is None or pd.isna(identity) or int(identity) not in names:
            continue
        return f" in {names[int(identity)] or 'the model'}"
    return ""
