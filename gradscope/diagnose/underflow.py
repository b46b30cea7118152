"""What GS202 reads: sizes of gradients in 16-bit formats, and what the loss scaler did."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.formats import FLOOR, HALF, bits_left, output_formats
from gradscope.diagnose.once import once
from gradscope.recording.facts import Role, State
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Reading:
    """One gradient over the last window.

    Attributes:
        module: the module at whose output it is, or that owns the parameter.
        parameter: the parameter whose ``.grad`` it is; "" for a gradient at an output.
        dtype: its format.
        bits: median of ``formats.bits_left`` over the steps.
        zeros: median share of exact zeros.
        steps, first_step, last_step: sampled steps looked at.
    """

    module: str
    parameter: str
    dtype: str
    bits: float
    zeros: float
    steps: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Scaler:
    """What a loss scaler did.

    Attributes:
        used: whether a scale was seen.
        first, last: the scale on the first and the last step with one; NaN without.
        skipped: steps that it skipped.
        skipped_last: skipped steps in a row at the end of the run.
        first_skip: the first of these.
        first_step, last_step: of the run.
    """

    used: bool
    first: float
    last: float
    skipped: int
    skipped_last: int
    first_skip: int
    first_step: int
    last_step: int


def half_formats(recording: Recording) -> bool:
    """Whether a gradient is held in a 16-bit format."""
    dtypes = {*output_formats(recording).values(), *recording.parameters["dtype"]}
    return bool(dtypes & set(HALF))


def scaler(recording: Recording) -> Scaler:
    """What the loss scaler did, from the table of steps."""
    steps = recording.steps
    scale = steps["loss_scale"].to_numpy(float)
    known = scale[np.isfinite(scale)]
    skipped = steps["skipped"].fillna(False).to_numpy(bool)
    trailing = len(skipped) - int(np.flatnonzero(~skipped).max(initial=-1)) - 1
    at = steps["step"].to_numpy(np.int64)
    return Scaler(
        used=len(known) > 0,
        first=float(known[0]) if len(known) else math.nan,
        last=float(known[-1]) if len(known) else math.nan,
        skipped=int(skipped.sum()),
        skipped_last=trailing,
        first_skip=int(at[len(at) - trailing]) if trailing else 0,
        first_step=int(at[0]) if len(at) else 0,
        last_step=int(at[-1]) if len(at) else 0,
    )


@once
def readings(recording: Recording) -> list[Reading]:
    """Gradients in 16-bit formats, from the input to the loss; ``.grad`` before the outputs."""
    return [*_of_parameters(recording), *_of_outputs(recording)]


def _of_outputs(recording: Recording) -> list[Reading]:
    formats = {m: d for m, d in output_formats(recording).items() if d in FLOOR}
    rows = recording.activations
    rows = rows[(rows["role"] == Role.GRAD_OUTPUT) & rows["module_id"].isin(list(formats))]
    rows = rows[rows["position"] == 0]
    rows = _window(recording, rows, "activations")
    order = recording.modules["order"]
    found = [
        (order.get(key), _reading(part, str(part["module"].iloc[0]), "", formats[key]))
        for key, part in ((int(key), part) for key, part in rows.groupby("module_id"))
    ]
    placed = [(int(at), reading) for at, reading in found if at is not None and not pd.isna(at)]
    return [reading for _, reading in sorted(placed, key=lambda item: item[0])]


def _of_parameters(recording: Recording) -> list[Reading]:
    """``.grad`` of 16-bit parameters, where no output was seen (compiled modules)."""
    if recording.has("activations"):
        return []
    parameters = recording.parameters
    half = parameters[parameters["dtype"].isin(HALF)]
    rows = recording.gradients
    rows = rows[rows["parameter_id"].isin(list(half.index))]
    rows = rows[rows["state"].isin([State.FINITE, State.EXACT_ZERO])]
    rows = _window(recording, rows, "gradients")
    found = []
    for key, part in rows.groupby("parameter_id"):
        own = half.loc[int(key)]
        found.append(_reading(part, str(own["module_name"]), str(own["name"]), str(own["dtype"])))
    return found


def _window(recording: Recording, rows: pd.DataFrame, table: str) -> pd.DataFrame:
    skipped = windows.skipped_steps(recording)
    usable = windows.before_trouble(recording, windows.sampled_steps(recording, table))
    usable = usable[~np.isin(usable, list(skipped))][-windows.LAST :]
    return rows[rows["step"].isin(usable) & (rows["nonfinite"] == 0)]


def _reading(part: pd.DataFrame, module: str, parameter: str, dtype: str) -> Reading:
    bits = bits_left(part, FLOOR[dtype])
    share = part["zeros"].to_numpy(float) / np.maximum(part["looked_at"].to_numpy(float), 1)
    # the middle one of an even number would be the mean of two, which minus infinity spoils
    middle = float(np.sort(bits)[len(bits) // 2])
    return Reading(
        module, parameter, dtype, middle, float(np.median(share)), len(part),
        int(part["step"].min()), int(part["step"].max()),
    )  # fmt: skip
