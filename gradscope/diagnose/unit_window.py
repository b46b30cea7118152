"""Which units of each activation are dead: never active in any sampled batch of a window.

A unit is active in a batch where its slope is at least 0.05 anywhere (observe/reading/slopes.py):
judged by the slope, not by zeros in the output, of which a healthy ReLU layer has half and up to
94 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.once import once
from gradscope.diagnose.wording import code
from gradscope.recording.facts import Activation, Role
from gradscope.recording.reader import Recording

CAN_DIE = frozenset(
    {Activation.RELU, Activation.GELU, Activation.SILU, Activation.ELU, Activation.HARD}
)
"""Activations that are flat on one whole side. A sigmoid or tanh saturates (GS302), a leaky ReLU is
never flat, and the flat side of a softplus still passes a value."""

FUNCTIONS = frozenset({
    "relu", "relu_", "relu6", "threshold", "threshold_", "clamp", "clamp_", "clamp_min", "gelu",
    "silu", "mish", "hardswish", "elu", "elu_", "selu", "selu_", "celu", "celu_", "hardtanh",
    "hardtanh_",
})  # fmt: skip
"""The same as functions of torch and torch.nn.functional."""


@dataclass(frozen=True, slots=True)
class UnitWindow:
    """The units of one activation over the last sampled steps and over the first ones.

    Attributes:
        module: name of the activation, or of the module that reads the result of a functional one.
        module_id: its id.
        functional: whether the activation is called as a function.
        activation: its kind.
        units: units looked at.
        batches: sampled steps in the last window.
        positions: values seen for each unit in it (batch x positions, over the window).
        dead: units never active in the last window.
        dead_from_start: of these, units that were never active in the first window either.
        slope: mean slope over all units in the last window; NaN if unknown.
        first_step, last_step: of the last window.
    """

    module: str
    module_id: int
    functional: bool
    activation: Activation
    units: int
    batches: int
    positions: int
    dead: int
    dead_from_start: int
    slope: float
    first_step: int
    last_step: int

    @property
    def dead_share(self) -> float:
        """Dead units over units, 0 to 1."""
        return self.dead / self.units if self.units else 0.0

    @property
    def since_start(self) -> bool:
        """Whether most of the dead units were dead before training could kill them."""
        return self.dead > 0 and 2 * self.dead_from_start > self.dead


@once
def unit_windows(recording: Recording, positions: int = 1_000) -> tuple[UnitWindow, ...]:
    """Unit states of each activation that can die, in call order.

    The window is the last 20 sampled steps before the first non-finite one, and more where these
    hold fewer than ``positions`` values a unit.
    """
    frame = recording.units
    usable = windows.before_trouble(recording, windows.sampled_steps(recording, "units"))
    frame = frame[frame["step"].isin(usable)]
    found = []
    for (module, role, kind), group in frame.groupby(["module_id", "role", "activation"]):
        if Activation(int(kind)) not in CAN_DIE:
            continue
        rows = group.sort_values("step")
        # units of a layer whose width changed cannot be merged
        rows = rows[rows["looked_at"] == rows["looked_at"].iloc[-1]]
        found.append(
            _window(recording, int(module), int(role), Activation(int(kind)), rows, positions)
        )
    order = recording.modules["order"]
    return tuple(sorted(found, key=lambda w: _position(order.get(w.module_id, pd.NA))))


def functional_activations(recording: Recording) -> str:
    """The first activation that can die and that code calls as a function; "" where none is.

    The examined steps tell of them. Their units are looked at where a module reads the result as it
    is, and nowhere else: a dropout or a reshape in between hides them.
    """
    examined = recording.examined
    calls = examined[(examined["kind"] == "activation") & examined["operation"].isin(FUNCTIONS)]
    if not len(calls):
        return ""
    row = calls.iloc[0]
    module = recording.module_names.get(int(row["module"]), "") if pd.notna(row["module"]) else ""
    return code(str(row["operation"])) + (f" in {code(module)}" if module else "")


def _window(
    recording: Recording,
    module: int,
    role: int,
    kind: Activation,
    rows: pd.DataFrame,
    positions: int,
) -> UnitWindow:
    size = windows.LAST
    while size < len(rows) and rows["positions"].iloc[-size:].sum() < positions:
        size += windows.LAST
    last, first = rows.iloc[-size:], rows.iloc[: windows.FIRST]
    dead = ~_any_active(recording, last.index)
    dead_first = ~_any_active(recording, first.index)
    return UnitWindow(
        module=recording.module_names.get(module, ""),
        module_id=module,
        functional=role == Role.INPUT,
        activation=kind,
        units=int(last["looked_at"].iloc[-1]),
        batches=len(last),
        positions=int(last["positions"].sum()),
        dead=int(dead.sum()),
        dead_from_start=int((dead & dead_first).sum()),
        slope=float(last["slope"].mean()),
        first_step=int(last["step"].iloc[0]),
        last_step=int(last["step"].iloc[-1]),
    )


def _any_active(recording: Recording, rows: Iterable[Any]) -> npt.NDArray[np.bool_]:
    """Per unit: active in any of the rows (positions in the frame of ``units``)."""
    merged: npt.NDArray[np.bool_] | None = None
    for row in rows:
        active, _ = recording.unit_states(int(row))
        merged = active if merged is None else merged | active
    assert merged is not None, "a window has at least one row"
    return merged


def _position(order: Any) -> float:
    return float("inf") if pd.isna(order) else float(order)
