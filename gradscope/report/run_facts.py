"""The facts about a run that every format shows: how long, how much was seen, at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the head of a report says about the run; None where it was not recorded.

    Attributes:
        steps_seen: optimizer steps that were seen.
        steps_sampled: steps with statistics of gradients.
        parameters, modules: number of each that was met; a model itself counts as a module.
        device, dtype: of the parameters, as text.
        optimizers: ``{"type": str, "lr": [float]}`` for each.
        loss_first, loss_last: at the first and last step of the call site with most steps, in
            units of the loss.
        fraction: gradscope's own time as a share of the time of all steps, 0 to 1.
        seconds_per_step: gradscope's own time, mean over steps, in seconds.
        interrupted: why the run ended early.
    """

    steps_seen: int
    steps_sampled: int
    parameters: int
    modules: int
    device: str | None
    dtype: str | None
    optimizers: tuple[Mapping[str, Any], ...]
    loss_first: float | None
    loss_last: float | None
    fraction: float | None
    seconds_per_step: float | None
    interrupted: str | None


def run_facts(recording: Recording) -> RunFacts:
    """The facts about ``recording``'s run."""
    run = recording.run
    first, last = _losses(recording.steps)
    fraction, seconds = _cost(recording.steps)
    return RunFacts(
        steps_seen=len(recording.steps),
        steps_sampled=recording.count("gradients"),
        parameters=len(recording.parameter_names),
        modules=len(recording.module_names),
        device=run.get("device"),
        dtype=run.get("dtype"),
        optimizers=tuple(
            {"type": item["type"], "lr": list(item.get("lr") or [])}
            for item in run.get("optimizers") or []
        ),
        loss_first=first,
        loss_last=last,
        fraction=fraction,
        seconds_per_step=seconds,
        interrupted=run.get("interrupted"),
    )


def _losses(steps: pd.DataFrame) -> tuple[float | None, float | None]:
    # several losses (a GAN) are not comparable: the one that was stepped most stands for the run
    seen = steps[steps["site"].notna()]
    if seen.empty:
        return None, None
    counts = seen["site"].value_counts(sort=False)
    losses = seen.loc[seen["site"] == counts.idxmax(), "loss"]
    return float(losses.iloc[0]), float(losses.iloc[-1])


def _cost(steps: pd.DataFrame) -> tuple[float | None, float | None]:
    timed = steps[["own_seconds", "step_seconds"]].dropna()
    if timed.empty:
        return None, None
    own, whole = float(timed["own_seconds"].sum()), float(timed["step_seconds"].sum())
    fraction = own / whole if whole > 0 and math.isfinite(own / whole) else None
    return fraction, own / len(timed)
