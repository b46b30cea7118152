"""GS201: an operation or the data makes a NaN or an Inf."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding, Operand, Origin, Phase
from gradscope.diagnose.locate import location_of, place, site_location
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.wording import code, count
from gradscope.recording.reader import Recording

_WHAT = {
    "loss-nonfinite": "the loss",
    "gradient-nonfinite": "a gradient",
    "parameter-nonfinite": "a parameter",
    "activation-nonfinite": "a module's output",
}
_PHASES: dict[str, str] = {
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "input": "in the data",
    "parameter": "in a parameter",
}


class NonFinite(Rule):
    """An operation or the data makes a NaN or an Inf."""

    code = "GS201"
    name = "non-finite"
    title = "A NaN or an Inf appears"
    title_ok = "Every value that was looked at is finite"
    family = "numerics"
    severity = "critical"
    since = "0.1.0"
    needs = (Need("steps", 1, why="no step was recorded"),)

    def check(self, recording: Recording, _options: None) -> Outcome:
        """Report the first non-finite step; what a loss scaler skips is its normal work."""
        step = windows.first_nonfinite(recording)
        if step is None:
            if bool(recording.steps["skipped"].fillna(False).astype(bool).all()):
                return Undecided(
                    f"the loss scaler skipped each of {count(len(recording.steps), 'step')}: what "
                    f"overflows may be its own scale or the model"
                )
            return Passed(None, _measured(recording))
        alarms = recording.alarms
        alarms = alarms[alarms["kind"].astype(str).str.endswith("-nonfinite")]
        alarms = alarms[~alarms["step"].isin(windows.skipped_steps(recording))]
        row = _telling(alarms)
        origin, why = _origins(recording, alarms)
        return Findings((_finding(recording, step, alarms, row, origin, why),))


def _measured(recording: Recording) -> str:
    skipped = len(windows.skipped_steps(recording))
    seen = count(len(recording.steps), "step")
    if skipped:
        return (
            f"{seen} looked at; {count(skipped, 'step')} skipped by the loss scaler, as it should"
        )
    return f"{seen} looked at: losses and gradients are finite"


def _telling(alarms: pd.DataFrame) -> pd.Series | None:
    """The first alarm with an origin, else the first one."""
    if not len(alarms):
        return None
    found = alarms[[_phase(cell) is not None for cell in alarms["origin"]]]
    return (found if len(found) else alarms).iloc[0]


def _phase(cell: Any) -> str | None:
    return cell.get("phase") if isinstance(cell, Mapping) else None


def _origins(recording: Recording, alarms: pd.DataFrame) -> tuple[Origin | None, str]:
    """The origin of the first step that has one, on any rank; else why none was found.

    Gradients are summed over the ranks: all see the NaN of one, which alone has its origin. Of two
    origins at one step that with the operation's own line wins, then the later one, for which the
    script was run again.
    """
    found: list[tuple[tuple[int, bool, int], Origin]] = []
    reasons: list[str] = []
    ranks = {"": recording, **recording.shards}
    for name, shard in ranks.items():
        rows = alarms if not name else shard.alarms
        rank = _rank_of(shard) if recording.shards else None
        for order, (step, cell) in enumerate(zip(rows["step"], rows["origin"], strict=True)):
            if _phase(cell) is not None:
                key = int(step), not cell.get("exact", True), -order
                found.append((key, origin_of(cell, shard.module_names, rank)))
            elif isinstance(cell, Mapping) and cell.get("reason"):
                reasons.append(str(cell["reason"]))
    if not found:
        return None, reasons[-1] if reasons else ""
    return min(found, key=lambda pair: pair[0])[1], ""


def _rank_of(shard: Recording) -> int | None:
    rank = shard.run.get("rank")
    return int(rank) if rank is not None else None


def origin_of(
    cell: Mapping[str, Any], module_names: Mapping[int, str], rank: int | None = None
) -> Origin:
    """An origin as column ``origin`` of table ``alarms`` holds it; it has a phase.

    Args:
        cell: of the table.
        module_names: names by id.
        rank: on which it was found, where there are several.
    """
    module = cell.get("module")
    name = module_names.get(int(module), "") if module is not None else ""
    return Origin(
        operation=str(cell.get("operation") or ""),
        phase=cast(Phase, cell["phase"]),
        module=name,
        location=place(cell.get("file"), cell.get("line")),
        samples=tuple(int(i) for i in cell.get("samples") or ()),
        reason=str(cell.get("reason") or ""),
        operands=tuple(map(_operand, cell.get("operands") or ())),
        rank=rank,
    )


def _operand(cell: Mapping[str, Any]) -> Operand:
    at = cell.get("at")
    return Operand(
        role=str(cell["role"]),
        shape=tuple(int(size) for size in cell["shape"]),
        dtype=str(cell["dtype"]),
        low=cell["min"],
        high=cell["max"],
        nans=int(cell["nan"]),
        infs=int(cell["inf"]),
        at="" if at is None else (f"{at:.6g}" if isinstance(at, int | float) else str(at)),
    )


def _finding(
    recording: Recording,
    step: int,
    alarms: pd.DataFrame,
    row: pd.Series | None,
    origin: Origin | None,
    unknown: str,
) -> Finding:
    recovered = _recovers(recording, step)
    site = recording.steps.loc[recording.steps["step"] == step, "site"]
    module = origin.module if origin else _module_of(recording, row)
    parameter = _parameter_of(recording, row)
    fallback = site_location(site.iloc[0]) if len(site) else None
    location = origin.location if origin else None
    return Finding(
        code=NonFinite.code,
        name=NonFinite.name,
        severity="warning" if recovered else "critical",
        confidence="certain",
        summary=_summary(step, row, origin),
        modules=(module,) if origin or module else (),
        parameters=(parameter,) if parameter else (),
        location=location or (location_of(recording, module) if module else None) or fallback,
        first_step=step,
        last_step=int(alarms["step"].max()) if len(alarms) else windows.last_step(recording),
        evidence=_evidence(recording, step, alarms),
        why=_why(recording, step, recovered),
        causes=_causes(origin, unknown),
        kind=origin.operation or origin.phase if origin else "unknown",
        origin=origin,
    )


def _summary(step: int, row: pd.Series | None, origin: Origin | None) -> str:
    if origin is None:
        what = _WHAT.get(row["kind"], "a value") if row is not None else "the loss"
        what = f"{what[0].upper()}{what[1:]}"
        return f"{what} is NaN or Inf at step {step}; where it began is not known."
    if origin.phase == "input":
        at = f", in {_samples(origin)}" if origin.samples else ""
        rank = "" if origin.rank is None else f" of rank {origin.rank}"
        return f"The data{rank} holds a NaN or an Inf at step {step}{at}."
    if origin.phase == "parameter":
        return f"A parameter of {code(origin.module)} holds a NaN or an Inf at step {step}."
    where = f" ({origin.location})" if origin.location else ""
    samples = f", in {_samples(origin)}" if origin.samples else ""
    inside = f"in {code(origin.module)}" if origin.module else "outside the model's layers"
    rank = "" if origin.rank is None else f" of rank {origin.rank}"
    return (
        f"`{origin.operation}` {inside}{where} makes the first NaN or Inf at step {step}{rank}, "
        f"{_PHASES[origin.phase]}{samples}."
    )


def _samples(origin: Origin) -> str:
    shown = ", ".join(str(i) for i in origin.samples[:5])
    more = " …" if len(origin.samples) > 5 else ""
    return f"sample{'' if len(origin.samples) == 1 else 's'} {shown}{more} of the batch"


def _why(recording: Recording, step: int, recovered: bool) -> str:
    lost = windows.last_step(recording) - step
    if recovered:
        return "The loss became finite again later, but that step's update was lost or harmful."
    if lost > 0:
        return f"A NaN spreads through every update: the {count(lost, 'step')} after it were lost."
    return "A NaN spreads through every update: nothing after it can be learned."


def _causes(origin: Origin | None, unknown: str) -> tuple[str, ...]:
    if origin is None:
        return (f"Not narrowed down: {unknown or 'the step could not be replayed'}.",)
    return (origin.reason,) if origin.reason else ()


def _evidence(recording: Recording, step: int, alarms: pd.DataFrame) -> tuple[Evidence, ...]:
    rows = [Evidence("non-finite steps seen", float(alarms["step"].nunique()), "steps", 0.0)]
    before = recording.steps[recording.steps["step"] < step]["loss"].dropna()
    if len(before):
        rows.append(Evidence("last finite loss", float(before.iloc[-1])))
    gradients = recording.gradients
    counted = gradients[(gradients["step"] == step) & (gradients["nans"] >= 0)]
    if len(counted):
        rows.append(Evidence("NaN elements in gradients", float(counted["nans"].sum())))
        rows.append(Evidence("Inf elements in gradients", float(counted["infs"].sum())))
    return tuple(rows)


def _recovers(recording: Recording, step: int) -> bool:
    later = recording.steps[recording.steps["step"] > step]
    return bool(len(later)) and math.isfinite(float(later["loss"].iloc[-1]))


def _module_of(recording: Recording, row: pd.Series | None) -> str:
    if row is None or pd.isna(row["module"]):
        return ""
    return recording.module_names.get(int(row["module"]), "")


def _parameter_of(recording: Recording, row: pd.Series | None) -> str:
    if row is None or pd.isna(row["parameter"]):
        return ""
    return recording.parameter_names.get(int(row["parameter"]), "")
