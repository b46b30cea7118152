"""Whether a step changes a parameter at all: what GS203 reads of the updates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.formats import HALF
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Movement:
    """What the steps did to one parameter.

    Only steps count that were taken (not skipped by a loss scaler) with a gradient that is not zero
    and a learning rate above zero.

    Attributes:
        name, module: qualified names of the parameter and of the module that owns it.
        dtype: its format.
        count: elements.
        matrix: whether it has two axes or more.
        steps, first_step, last_step: the steps that count.
        unchanged: no looked-at element changed on any of them.
        moved: median share of the elements with a gradient that changed in a step.
        rate: median learning rate.
        size: median RMS of its elements.
    """

    name: str
    module: str
    dtype: str
    count: int
    matrix: bool
    steps: int
    first_step: int
    last_step: int
    unchanged: bool
    moved: float
    rate: float
    size: float

    @property
    def half(self) -> bool:
        """Whether it is held in a 16-bit format."""
        return self.dtype in HALF


def movements(recording: Recording) -> tuple[Movement, ...]:
    """The movement of each parameter that an optimizer holds, in the order of the parameters."""
    rows = _usable(recording)
    parameters = recording.parameters
    groups = {int(key): part for key, part in rows.groupby("parameter_id")}
    steps = recording.steps.sort_values("step")
    at = steps["step"].to_numpy(np.int64)
    rates: dict[int, npt.NDArray[np.float64]] = {}
    found = []
    for identity, row in parameters.iterrows():
        part = groups.get(int(identity))
        if part is None or int(row["optimizer"]) < 0 or not row["requires_grad"]:
            continue
        group = int(row["group"])
        if group not in rates:
            rates[group] = np.array([_rate(cell, group) for cell in steps["lr"]], np.float64)
        rate = rates[group][np.searchsorted(at, part["step"].to_numpy())]
        part, rate = part[rate > 0], rate[rate > 0]
        if len(part):
            found.append(_movement(row, part, float(np.median(rate))))
    return tuple(found)


def _usable(recording: Recording) -> pd.DataFrame:
    updates = recording.updates
    steps = windows.before_trouble(recording, windows.sampled_steps(recording, "updates"))
    rows = updates[updates["step"].isin(steps) & (updates["gradient_sq"] > 0)]
    skipped = recording.steps["skipped"].fillna(False).to_numpy(bool)
    rows = rows[rows["step"].isin(recording.steps["step"].to_numpy()[~skipped])]
    zeros = recording.gradients[["step", "parameter_id", "zeros", "looked_at"]]
    return rows.merge(zeros, "left", on=["step", "parameter_id"], suffixes=("", "_gradient"))


def _movement(row: pd.Series, part: pd.DataFrame, rate: float) -> Movement:
    looked_at = part["looked_at_gradient"].to_numpy(float)
    zeros = part["zeros"].to_numpy(float)
    # rows of an embedding that no sample picked have no gradient, and no reason to move
    alive = np.where(looked_at > 0, 1 - zeros / np.maximum(looked_at, 1), 1.0)
    seen = np.maximum(part["looked_at"].to_numpy(float), 1)
    moved = part["changed"].to_numpy(float) / seen / np.maximum(alive, 1 / seen)
    size = np.sqrt(part["before_sq"].to_numpy(float) / seen)
    module = row["module_name"]
    return Movement(
        name=str(row["name"]),
        module=module if isinstance(module, str) else "",
        dtype=str(row["dtype"]),
        count=int(row["count"]),
        matrix=len(row["shape"] or ()) >= 2,
        steps=len(part),
        first_step=int(part["step"].min()),
        last_step=int(part["step"].max()),
        unchanged=int(part["changed"].sum()) == 0,
        moved=float(np.median(moved)),
        rate=rate,
        size=float(np.median(size)),
    )


def _rate(cell: object, group: int) -> float:
    """Learning rate of a parameter group; a rate that is not known counts as one above zero."""
    if not isinstance(cell, list) or not 0 <= group < len(cell):
        return 1.0
    value = cell[group]
    return 1.0 if value is None or math.isnan(float(value)) else float(value)
