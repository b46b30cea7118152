"""Gradients that the optimizer is about to use, as rows of table ``gradients``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.reading.samples import plain
from gradscope.observe.statistics import moments
from gradscope.recording.facts import GRADIENTS, State

Rows = npt.NDArray[np.void]


@torch.no_grad()
def gradient_rows(
    step: int,
    parameters: Sequence[tuple[int, Tensor]],
    scale: Any,
    *,
    count: bool,
    given: Mapping[int, Tensor] | None = None,
) -> Rows:
    """One row for each parameter that requires grad, but for gradients that cannot be read.

    Args:
        step: the step.
        parameters: id and parameter.
        scale: what a fused optimizer under a loss scaler will divide by, or None.
        count: also count NaN and Inf elements (reads every gradient again).
        given: gradients by id that are used in place of ``.grad``.
    """
    live: list[tuple[int, Tensor | None]] = []
    for identity, parameter in parameters:
        if not parameter.requires_grad:
            continue
        gradient = given.get(identity, parameter.grad) if given else parameter.grad
        dense = None if gradient is None else plain(gradient)
        if gradient is None or (dense is not None and not dense.is_meta):
            live.append((identity, dense))
    rows = np.zeros(len(live), GRADIENTS.dtype)
    rows["step"] = step
    rows["parameter"] = [identity for identity, _ in live]
    rows["state"] = State.NONE
    rows["looked_at"] = rows["zeros"] = rows["nans"] = rows["infs"] = -1
    rows["sum"] = rows["sum_sq"] = rows["max_abs"] = np.nan
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = defaultdict(list)
    for index, (_, dense) in enumerate(live):
        if dense is not None:
            by_device[dense.device].append((index, dense))
    for found in by_device.values():
        indices = np.array([index for index, _ in found])
        tensors = [dense for _, dense in found]
        _fill(rows, indices, tensors, 1.0 if scale is None else float(scale))
        if count:
            rows["nans"][indices] = [int(t.isnan().sum()) for t in tensors]
            rows["infs"][indices] = [int(t.isinf().sum()) for t in tensors]
    return rows


def _fill(rows: Rows, indices: npt.NDArray[Any], tensors: list[Tensor], scale: float) -> None:
    read = moments(tensors, exponents=True)
    for name, values in (
        ("count", read.count),
        ("sum", read.sum / scale),
        ("sum_sq", read.sum_sq / scale**2),
        ("max_abs", read.max_abs / scale),
        ("nonfinite", read.nonfinite),
        ("looked_at", read.looked_at),
        ("zeros", read.zeros),
    ):
        rows[name][indices] = values
    exponents = read.exponents
    assert exponents is not None, "asked for above"
    # a fused optimizer's gradients are still scaled by a power of two: the bins move, two at a time
    shift = round(math.log2(scale)) // 2
    rows["exponents"][indices] = exponents if not shift else _shifted(exponents, shift)
    state = np.where(read.max_abs == 0, State.EXACT_ZERO, State.FINITE)
    rows["state"][indices] = np.where(read.nonfinite, State.NON_FINITE, state)


def _shifted(exponents: npt.NDArray[np.uint16], by: int) -> npt.NDArray[np.uint16]:
    moved = np.zeros_like(exponents)
    by = min(by, exponents.shape[1] - 1)
    moved[:, : exponents.shape[1] - by] = exponents[:, by:]
    moved[:, 0] += exponents[:, :by].sum(axis=1).astype(np.uint16)
    return moved


def total_norm(rows: Rows, held: set[int]) -> float | None:
    """Euclidean norm over the gradients of the parameters that the optimizer holds."""
    mine = np.isin(rows["parameter"], list(held)) if held else np.ones(len(rows), bool)
    present = mine & (rows["state"] != State.NONE)
    if not present.any():
        return None
    return (
        math.sqrt(rows["sum_sq"][present].sum())
        if not rows["nonfinite"][present].any()
        else math.nan
    )
