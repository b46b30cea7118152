"""The state of each unit of an activation: ever active, and its mean slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.reading import slopes
from gradscope.recording.facts import UNITS_LIMIT, Activation

POSITIONS_LIMIT = 4_096
"""Positions (batch x space) looked at for each unit in a call; beyond it a stride of the batch."""
_LOOK_BACK = 6
"""Nodes walked back from a module's input to the activation that made it."""

_TRANSPARENT = (
    "View", "UnsafeView", "ReshapeAlias", "Reshape", "Transpose", "T", "Permute", "Squeeze",
    "Unsqueeze", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "MeanBackward",
    "NativeDropout", "Mul", "ToCopy", "Clone", "Contiguous", "AsStrided", "Alias", "Expand",
)  # fmt: skip
_CHANNELS_FIRST = ("Convolution", "Conv", "NativeBatchNorm", "CudnnBatchNorm", "MkldnnConvolution",
                   "NativeGroupNorm", "MaxPool", "AvgPool")  # fmt: skip
_CHANNELS_LAST = ("Addmm", "Mm", "Bmm", "NativeLayerNorm", "Linear", "Embedding", "UnsafeView")


@dataclass(frozen=True, slots=True)
class UnitReading:
    """One call of one activation.

    Attributes:
        kind: the activation.
        units: units it has; ``active`` and ``slope`` cover at most UNITS_LIMIT of them.
        positions: values looked at for each unit.
        active: bool ``[looked_at]``.
        slope: float32 ``[looked_at]``, 0 to 1; NaN where the slope is not known.
    """

    kind: Activation
    units: int
    positions: int
    active: Tensor
    slope: Tensor


@torch.no_grad()
def read_module(kind: Activation, x: Tensor, module: nn.Module) -> UnitReading | None:
    """Units of an activation module from its input ``x`` (read before it may be overwritten)."""
    if x.dim() < 2 or not x.numel():
        return None
    axis = unit_axis(x, x.grad_fn)
    rows = _rows(x.detach(), axis)
    return _reading(
        kind, x.shape[axis], slopes.slope_from_input(kind, rows, slopes.bounds_of(module))
    )


@torch.no_grad()
def read_function(x: Tensor) -> UnitReading | None:
    """Units of the activation function that made a module's input ``x``, None if none did.

    Walks back over reshapes, pooling and dropout, and uses what autograd saved of the activation.
    """
    node = x.grad_fn
    for _ in range(_LOOK_BACK):
        if node is None:
            return None
        kind = slopes.node_kind(node.name())
        if kind is not None:
            return _read_node(kind, node)
        if not any(word in node.name() for word in _TRANSPARENT):
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def _read_node(kind: Activation, node: Any) -> UnitReading | None:
    for name, slope in (
        ("result", lambda y: slopes.slope_from_output(kind, y)),
        ("self", lambda y: slopes.slope_from_input(kind, y, slopes.bounds_of_node(node))),
    ):
        saved = private.saved(node, name)
        if isinstance(saved, Tensor) and saved.dim() >= 2 and saved.numel():
            axis = unit_axis(saved, node.next_functions[0][0])
            reading = _reading(kind, saved.shape[axis], slope(_rows(saved, axis)))
            if reading is not None:
                return reading
    return None


def unit_axis(x: Tensor, node: Any) -> int:
    """Axis of the units: 1 after convolutions and batch norms, the last one otherwise."""
    if x.dim() == 2:
        return 1
    for _ in range(3):
        if node is None:
            break
        name = node.name()
        if name.startswith(_CHANNELS_FIRST):
            return 1
        if name.startswith(_CHANNELS_LAST):
            return x.dim() - 1
        node = node.next_functions[0][0] if node.next_functions else None
    return 1 if x.dim() >= 4 else x.dim() - 1


def _rows(x: Tensor, axis: int) -> Tensor:
    """``[positions, units]`` in float32, at most POSITIONS_LIMIT rows and UNITS_LIMIT columns."""
    per_sample = x[0].numel() // x.shape[axis] if axis else 1
    keep = max(POSITIONS_LIMIT // max(per_sample, 1), 1)
    x = x[:: -(-x.shape[0] // keep)]
    rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    rows = rows[:: -(-len(rows) // POSITIONS_LIMIT)]
    return rows[:, :: -(-rows.shape[1] // UNITS_LIMIT)].to(torch.float32)


def _reading(kind: Activation, units: int, slope: Tensor | None) -> UnitReading | None:
    if slope is None:
        return None
    active = (slope >= slopes.ACTIVE_SLOPE).any(dim=0)
    return UnitReading(kind, units, len(slope), active, slope.mean(dim=0))


def merge(readings: list[UnitReading]) -> UnitReading:
    """Several calls in one step as one: any-active by OR, slopes weighted by positions."""
    first = readings[0]
    same = [r for r in readings if r.active.shape == first.active.shape]
    positions = sum(r.positions for r in same)
    active, slope = first.active, first.slope * (first.positions / positions)
    for reading in same[1:]:
        active = active | reading.active
        slope = slope + reading.slope * (reading.positions / positions)
    return UnitReading(first.kind, first.units, positions, active, slope)


def pack(reading: UnitReading) -> tuple[bytes, int, float]:
    """Bytes for the blob of table ``units``, units active, and the mean slope."""
    active: npt.NDArray[np.bool_] = reading.active.cpu().numpy()
    slope = reading.slope.cpu().numpy()
    bits = np.packbits(active, bitorder="little").tobytes()
    if np.isnan(slope).any():
        return bits, int(active.sum()), float("nan")
    levels = np.rint(np.clip(slope, 0, 1) * 255).astype(np.uint8)
    return bits + levels.tobytes(), int(active.sum()), float(slope.mean())
