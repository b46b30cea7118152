"""How steep each unit of an activation that saturates is where its inputs fall.

Judged by the slope at the activation's own inputs, mean over batch and window, as a share of its
largest slope: a sigmoid passes on less than a fifth of it beyond 2.9, a tanh beyond 1.45.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.recording.facts import Activation, Role
from gradscope.recording.reader import Recording

SATURATES = frozenset({Activation.SIGMOID, Activation.TANH, Activation.HARD})
"""Activations that are flat on both sides. One-sided ones die instead (GS301)."""
ONE_SIDED = frozenset({"ReLU6"})
"""Recorded as HARD, but half of its inputs are on its flat side in a healthy network."""


@dataclass(frozen=True, slots=True)
class SlopeWindow:
    """Slopes of one activation over the last sampled steps and over the first ones.

    Attributes:
        module, module_id: the activation, or the module that reads the result of a functional one.
        functional: whether the activation is called as a function.
        order: ordinal of its call; infinite where unknown.
        units: units looked at.
        batches: sampled steps in the last window.
        slope: mean slope over units, batch and window, 0 to 1.
        first_slope: the same over the first sampled steps.
        flat: share of units whose mean slope over the window is below the limit given.
        first_step, last_step: of the last window.
    """

    module: str
    module_id: int
    functional: bool
    order: float
    units: int
    batches: int
    slope: float
    first_slope: float
    flat: float
    first_step: int
    last_step: int


def slope_windows(recording: Recording, unit_limit: float) -> tuple[SlopeWindow, ...]:
    """Slopes of each activation that can saturate, in call order.

    Args:
        recording: what was recorded.
        unit_limit: mean slope below which a unit counts as flat.
    """
    frame = recording.units
    usable = windows.before_trouble(recording, windows.sampled_steps(recording, "units"))
    frame = frame[frame["step"].isin(usable) & frame["activation"].isin([*SATURATES])]
    modules = recording.modules
    found = []
    for (module, role, kind), group in frame.groupby(["module_id", "role", "activation"]):
        functional = role == Role.INPUT
        one_sided = modules.at[module, "type"] in ONE_SIDED or functional
        if kind == Activation.HARD and one_sided:
            continue  # a functional relu6 cannot be told from a hardtanh
        rows = group.sort_values("step")
        # units of a layer whose width changed cannot be merged
        rows = rows[rows["looked_at"] == rows["looked_at"].iloc[-1]]
        last, first = rows.iloc[-windows.LAST :], rows.iloc[: windows.FIRST]
        slopes = _mean_slopes(recording, last)
        if not np.isfinite(slopes).all():
            continue
        order = modules.at[module, "order"]
        found.append(
            SlopeWindow(
                module=recording.module_names.get(int(module), ""),
                module_id=int(module),
                functional=functional,
                order=math.inf if pd.isna(order) else float(order),
                units=len(slopes),
                batches=len(last),
                slope=float(slopes.mean()),
                first_slope=float(first["slope"].mean()),
                flat=float((slopes < unit_limit).mean()),
                first_step=int(last["step"].iloc[0]),
                last_step=int(last["step"].iloc[-1]),
            )
        )
    return tuple(sorted(found, key=lambda window: window.order))


def _mean_slopes(recording: Recording, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Mean slope of each unit over ``rows`` of table ``units``, weighted by positions."""
    states = [recording.unit_states(int(row))[1].astype(np.float64) for row in rows.index]
    return np.average(states, axis=0, weights=rows["positions"].to_numpy(float))
