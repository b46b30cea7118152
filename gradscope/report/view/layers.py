"""The layers of a run in forward order, with the gradient of each at every sampled step.

A layer is a module that owns parameters. The sums of its parameters' gradients are merged (they
are sufficient statistics), so one layer has one gradient RMS whatever its weight and bias are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording.facts import State
from gradscope.recording.reader import Recording
from gradscope.report.clean import one_line


class Cell(IntEnum):
    """What is known of the gradient of one layer at one step; higher hides lower when merged."""

    NOT_RECORDED = 0
    FROZEN = 1
    NONE = 2
    ZERO = 3
    FINITE = 4
    NON_FINITE = 5


_CELL = np.zeros(256, np.uint8)
for _state, _cell in (
    (State.FROZEN, Cell.FROZEN),
    (State.NONE, Cell.NONE),
    (State.EXACT_ZERO, Cell.ZERO),
    (State.FINITE, Cell.FINITE),
    (State.NON_FINITE, Cell.NON_FINITE),
):
    _CELL[_state] = _cell


@dataclass(frozen=True)
class Layer:
    """One row of the figures and of the layer table.

    Attributes:
        name: the module's qualified name, or the parameter's where it belongs to no module, on one
            line and with what cannot be shown escaped.
        type: the module's class, or "parameter".
        module: id of the module; -1: none.
        parameters: ids of its own parameters, the largest first.
        count: elements of these parameters.
        place: ``file:line`` that builds it, or "".
    """

    name: str
    type: str
    module: int
    parameters: tuple[int, ...]
    count: int
    place: str

    @property
    def label(self) -> str:
        """The name as a reader wants it: with its class where it is only a number."""
        return labelled(self.name, self.type)


@dataclass(frozen=True)
class Layers:
    """All layers, input first.

    Attributes:
        layers: the rows, L of them.
        steps: the sampled steps ``[S]``, ascending.
        rms: root mean square of the gradient ``[L, S]``; NaN unless the cell is FINITE.
        cells: ``Cell`` of each ``[L, S]``.
    """

    layers: tuple[Layer, ...]
    steps: npt.NDArray[np.int64]
    rms: npt.NDArray[np.float64]
    cells: npt.NDArray[np.uint8]

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return [layer.name for layer in self.layers]

    @property
    def labels(self) -> list[str]:
        """Labels in order."""
        return [layer.label for layer in self.layers]

    def row_of(self, name: str) -> int | None:
        """Row of the layer called ``name``, or of the layer that owns the parameter ``name``."""
        names, name = self.names, one_line(name)
        if name in names:
            return names.index(name)
        owner = name.rpartition(".")[0]
        return names.index(owner) if owner in names else None


_HELD = re.compile(r"optimizer(\d+)\.param_groups\.(\d+)\.(\d+)")
"""How a tensor is called that an optimizer holds and no module does."""


def labelled(name: str, kind: str) -> str:
    """``name``, followed by the class ``kind`` where it says nothing itself: "3 Linear".

    A tensor that only an optimizer holds is called by its place there.
    """
    if held := _HELD.fullmatch(name):
        optimizer, group, index = held.groups()
        plain = optimizer == group == "0"
        return f"optimizer's tensor {index if plain else '.'.join(held.groups())}"
    return f"{name} {kind}" if name.isdecimal() else name


def labels_of(recording: Recording) -> dict[str, str]:
    """Label of each module by its name."""
    modules = recording.modules
    return {
        one_line(str(name)): labelled(one_line(str(name)), one_line(str(kind)))
        for name, kind in zip(modules["name"], modules["type"], strict=True)
    }


def layers_of(recording: Recording) -> Layers:
    """Arrange ``recording``; every table may be empty."""
    layers = _in_forward_order(recording)
    gradients = recording.gradients
    steps = np.unique(gradients["step"].to_numpy(np.int64))
    shape = (len(layers), len(steps))
    row_by_parameter = {p: row for row, layer in enumerate(layers) for p in layer.parameters}
    rows = gradients["parameter_id"].map(row_by_parameter).to_numpy(np.float64)
    known = ~np.isnan(rows)
    at = (rows[known].astype(int), np.searchsorted(steps, gradients["step"].to_numpy()[known]))
    cells = np.zeros(shape, np.uint8)
    np.maximum.at(cells, at, _CELL[gradients["state"].to_numpy()[known]])
    sums, counts = np.zeros(shape), np.zeros(shape)
    finite = _CELL[gradients["state"].to_numpy()[known]] >= Cell.ZERO
    np.add.at(sums, at, np.where(finite, gradients["sum_sq"].to_numpy()[known], 0))
    np.add.at(counts, at, np.where(finite, gradients["count"].to_numpy()[known], 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        rms = np.where(cells == Cell.FINITE, np.sqrt(sums / counts), np.nan)
    return Layers(layers, steps, rms, cells)


def _in_forward_order(recording: Recording) -> tuple[Layer, ...]:
    modules, parameters = recording.modules, recording.parameters
    found: list[tuple[tuple[float, int], Layer]] = []
    for owner, group in parameters.groupby("module", sort=False):
        group = group.sort_values("count", ascending=False)
        if owner == -1 or owner not in modules.index:
            found += [
                ((np.inf, int(item["parameter"])), _lone(item)) for _, item in group.iterrows()
            ]
            continue
        module = modules.loc[owner]
        order = np.inf if pd.isna(module["order"]) else float(module["order"])
        layer = Layer(
            # a parameter of the root itself has no path to show: the class names it
            name=one_line(str(module["name"]) or str(module["type"])),
            type=one_line(str(module["type"])),
            module=int(owner),
            parameters=tuple(int(p) for p in group["parameter"]),
            count=int(group["count"].sum()),
            place=_place(module["file"], module["line"]),
        )
        found.append(((order, int(owner)), layer))
    return tuple(layer for _, layer in sorted(found, key=lambda item: item[0]))


def _lone(parameter: pd.Series) -> Layer:
    identity = int(parameter["parameter"])
    return Layer(
        one_line(str(parameter["name"])), "parameter", -1, (identity,), int(parameter["count"]), ""
    )


def _place(file: object, line: object) -> str:
    if not isinstance(file, str):
        return ""
    return file if pd.isna(line) else f"{file}:{line}"
