"""Statistics of each feature of a root's inputs and of a loss's targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradscope.observe.reading.samples import plain
from gradscope.observe.reading.target import Target

Record = dict[str, Any]

LIMIT = 1_024
"""Features listed; beyond it a fixed stride is used."""


@torch.no_grad()
def input_record(step: int, root: int, position: int, tensor: Tensor) -> Record | None:
    """The record of one floating input ``[batch, ...]`` of a root; None without a batch axis.

    A feature is a channel (axis 1) of a tensor of four axes or more, else an element of the last.
    """
    dense = plain(tensor)
    if dense is None or dense.dim() < 2 or not dense.numel() or dense.is_meta:
        return None
    axis = 1 if dense.dim() >= 4 else dense.dim() - 1
    stride = -(-dense.shape[axis] // LIMIT)
    listed = dense.movedim(axis, -1)[..., ::stride].reshape(-1, -(-dense.shape[axis] // stride))
    values = listed.to(torch.float64 if dense.device.type != "mps" else torch.float32)
    return {
        "step": step,
        "kind": "input",
        "module": root,
        "position": position,
        "features": dense.shape[axis],
        "stride": stride,
        "count": len(values),
        "mean": _numbers(values.mean(dim=0)),
        "std": _numbers(values.std(dim=0, unbiased=False)),
        "low": _numbers(values.amin(dim=0)),
        "high": _numbers(values.amax(dim=0)),
    }


def target_record(step: int, position: int, target: Target) -> Record | None:
    """The record of the floating targets of one loss, all that were seen; None for classes."""
    if target.sum is None or target.sum_sq is None:
        return None
    stride = -(-target.sum.numel() // LIMIT)
    mean = target.sum[::stride] / target.count
    variance = target.sum_sq[::stride] / target.count - mean.square()
    return {
        "step": step,
        "kind": "target",
        "module": -1,
        "position": position,
        "features": target.sum.numel(),
        "stride": stride,
        "count": round(float(target.count)),
        "mean": _numbers(mean),
        "std": _numbers(variance.clamp(min=0).sqrt()),
        "low": None,
        "high": None,
    }


def _numbers(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
