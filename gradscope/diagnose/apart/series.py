"""What is compared: one number a step for each layer and statistic, as a decimal logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
SMALLEST = 2.0**-149
"""Exact zeros stand at float32's smallest number, so that zero against something is a difference
and zero against zero is none."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic of a layer.

    Attributes:
        key: short name, also in JSON.
        name: as in "its … parts".
        own: it is the layer's own doing, not handed on by its neighbours.
        spread: standard deviation between seeds of one healthy run, in decades, of the mean over a
            window: nine tenths of 2,700 measured ones are smaller (docs/why/compare.md).
        least: decades below which a difference is of no interest, however certain.
    """

    key: str
    name: str
    own: bool
    spread: float
    least: float


STATISTICS = (
    Statistic("output", "output", False, 0.08, 0.15),
    Statistic("amplification", "output over input", True, 0.08, 0.15),
    Statistic("active", "share of active units", True, 0.035, 0.1),
    Statistic("slope", "mean slope", True, 0.05, 0.1),
    Statistic("gradient-output", "gradient at its output", False, 0.11, 0.3),
    Statistic("gain", "gain", True, 0.055, 0.1),
    Statistic("gradient", "gradient", False, 0.145, 0.3),
    Statistic("update", "update ratio", True, 0.095, 0.2),
    Statistic("weight", "size of its weights", True, 0.065, 0.1),
)
"""In the order in which one step makes them."""
BY_KEY = {statistic.key: statistic for statistic in STATISTICS}

Run = Mapping[tuple[str, str], pd.Series]
"""A run as ``series`` gives it."""
Key = tuple[str, str]
"""Statistic and layer (a module or a parameter)."""


def series(recording: Recording) -> dict[Key, pd.Series]:
    """Decimal logarithm by sampled step of every statistic of every layer that was recorded."""
    found: dict[Key, pd.Series] = {}
    rows = recording.activations
    rows = rows[rows["nonfinite"] == 0]
    norms = {role: _by_module(rows, role) for role in Role}
    sizes = {role: _by_module(rows, role, rms=True) for role in (Role.INPUT, Role.OUTPUT)}
    for module, values in sizes[Role.OUTPUT].items():
        found["output", module] = values
        if module in sizes[Role.INPUT]:
            _ratio(found, ("amplification", module), values, sizes[Role.INPUT][module])
    for module, values in norms[Role.GRAD_OUTPUT].items():
        found["gradient-output", module] = values
        if module in norms[Role.GRAD_INPUT]:
            _ratio(found, ("gain", module), norms[Role.GRAD_INPUT][module], values)
    units = recording.units
    if len(units):
        units = units[units["looked_at"] > 0]
        shares = units["active"] / units["looked_at"]
        for key, column in (("active", shares), ("slope", units["slope"].astype(float))):
            known = column.notna()
            frame = pd.DataFrame(
                {"step": units["step"][known], "layer": units["module"][known].astype(str),
                 "value": column[known]}
            )  # fmt: skip
            for layer, part in frame.groupby("layer"):
                found[key, str(layer)] = part.groupby("step")["value"].mean()
    gradients = recording.gradients
    gradients = gradients[gradients["nonfinite"] == 0]
    lost = _lost_in_rounding(recording, gradients)
    gradients = gradients[~gradients["parameter_id"].isin(lost)]
    _by_parameter(found, "gradient", gradients, gradients["rms"])
    updates = recording.updates
    updates = updates[~updates["parameter_id"].isin(lost | _begin_at_zero(recording))]
    _by_parameter(found, "update", updates, updates["ratio"])
    looked = updates["looked_at"].where(updates["looked_at"] > 0)
    _by_parameter(found, "weight", updates, np.sqrt(updates["before_sq"] / looked))
    return {key: _log(values) for key, values in found.items() if len(values)}


def _begin_at_zero(recording: Recording) -> set[int]:
    """Ids of parameters that begin as zeros, as the bias of a norm does.

    They have no size of their own to be compared, and none that a step could be a share of: how
    far they have come differs from seed to seed by factors.
    """
    table = recording.parameters
    zero = (table["initial_std"] == 0) & (table["initial_mean"] == 0)
    return {int(p) for p in table.index[zero.fillna(False).astype(bool)]}


ROUNDING = 1e-5
"""A vector's gradient below this share of the largest one is what rounding leaves of a zero."""


def _lost_in_rounding(recording: Recording, gradients: pd.DataFrame) -> set[int]:
    """Ids of vectors whose gradient is zero but for rounding, as a bias before a batch norm has.

    Their numbers are different in every run and mean nothing. A matrix is kept: its small gradient
    is the vanishing of one.
    """
    shapes = recording.parameters["shape"]
    vectors = {int(p) for p, shape in shapes.items() if len(shape or ()) < 2}
    if gradients.empty:
        return set()
    largest = gradients.groupby("step")["rms"].max()
    share = gradients["rms"] / gradients["step"].map(largest)
    usual = share.groupby(gradients["parameter_id"]).median()
    return {int(p) for p in usual.index[usual < ROUNDING]} & vectors


def _by_module(rows: pd.DataFrame, role: Role, *, rms: bool = False) -> dict[str, pd.Series]:
    part = rows[rows["role"] == role]
    if part.empty:
        return {}
    # categories of modules that were never called would come out as empty groups
    sums = part.assign(module=part["module"].astype(str)).groupby(["module", "step"])
    total = sums["sum_sq"].sum()
    if rms:
        total = total / sums["count"].sum()
    return {
        str(module): np.sqrt(values.droplevel("module"))
        for module, values in total.groupby("module")
    }


def _by_parameter(
    found: dict[Key, pd.Series], key: str, frame: pd.DataFrame, values: pd.Series
) -> None:
    known = values.notna()
    table = pd.DataFrame(
        {"step": frame["step"][known], "layer": frame["parameter"][known].astype(str),
         "value": values[known]}
    )  # fmt: skip
    for layer, part in table.groupby("layer"):
        found[key, str(layer)] = part.groupby("step")["value"].last()


def _ratio(found: dict[Key, pd.Series], key: Key, top: pd.Series, bottom: pd.Series) -> None:
    steps = top.index.intersection(bottom.index)
    below = bottom.loc[steps]
    known = below > 0
    if known.any():
        found[key] = top.loc[steps][known] / below[known]


def _log(values: pd.Series) -> pd.Series:
    return np.log10(values.astype(float).clip(lower=SMALLEST))


def windows(steps: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The steps in groups that double in length: the first alone, then 4, 5, 10, 20, 40 and on."""
    found, start, size = [], 0, 1
    for size in (1, 4, 5, *(10 * 2**k for k in range(40))):
        if start >= len(steps):
            break
        found.append(steps[start : start + size])
        start += size
    # a short rest says less than the window before it: it joins that one
    if len(found) > 1 and len(found[-1]) < len(found[-2]) / 2:
        rest = found.pop()
        found[-1] = np.concatenate([found[-1], rest])
    return found
