"""The values and shapes at the operation that made the first NaN or Inf, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Operand = dict[str, Any]
"""``role`` (input or output), ``shape``, ``dtype``, ``min`` and ``max`` over the finite elements
(null where there is none), ``nan``, ``inf`` (counts), ``at`` (the value at the first bad element of
the output, where the shapes allow; text for NaN and Inf)."""

SHOWN = 4
"""Inputs that are described."""


@torch.no_grad()
def described(inputs: Iterable[Any], output: Tensor) -> list[Operand]:
    """Inputs and output of an operation; what has no numbers is left out.

    Args:
        inputs: what went in, before it ran.
        output: what came out, with a NaN or Inf in it.
    """
    where = _first_bad(output)
    tensors = [t for t in inputs if _readable(t)][:SHOWN]
    rows = [_row("input", tensor, _at(tensor, output, where)) for tensor in tensors]
    return [*rows, _row("output", output, _at(output, output, where))]


def sentence(operands: list[Operand]) -> str:
    """The same in words: ``input 0 at (2, 1) of [4, 3] float32 in [0, 1]``; "" if empty."""
    parts = []
    for operand in operands:
        if operand["role"] != "input":
            continue
        at = "" if operand["at"] is None else f" {operand['at']} there,"
        low, high = operand["min"], operand["max"]
        span = "nothing finite" if low is None else f"{low:.4g} to {high:.4g}"
        shape = "×".join(map(str, operand["shape"])) or "a scalar"
        parts.append(f"input{at} {shape} {operand['dtype']} from {span}")
    return "; ".join(parts)


def _readable(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not value.is_meta
        and value.layout is torch.strided
        and (value.is_floating_point() or not value.is_complex())
        and not value.is_quantized
    )


def _row(role: str, tensor: Tensor, at: Any) -> Operand:
    values = tensor.detach()
    finite = values[torch.isfinite(values)] if _readable(tensor) else values[:0]
    real = values.is_floating_point()
    return {
        "role": role,
        "shape": list(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "min": float(finite.min()) if finite.numel() else None,
        "max": float(finite.max()) if finite.numel() else None,
        "nan": int(values.isnan().sum()) if real else 0,
        "inf": int(values.isinf().sum()) if real else 0,
        "at": at,
    }


def _first_bad(output: Tensor) -> tuple[int, ...] | None:
    if not _readable(output) or not output.dim():
        return () if _readable(output) else None
    bad = (~torch.isfinite(output)).nonzero()
    return tuple(int(i) for i in bad[0]) if len(bad) else None


def _at(tensor: Tensor, output: Tensor, where: tuple[int, ...] | None) -> Any:
    """The element that stands at the output's first bad one, by torch's broadcasting."""
    if where is None or not _readable(tensor) or tensor.dim() > output.dim():
        return None
    index = where[len(where) - tensor.dim() :]
    pairs = zip(tensor.shape, output.shape[output.dim() - tensor.dim() :], strict=True)
    if any(mine not in (1, theirs) for mine, theirs in pairs):
        return None
    spot = tuple(0 if mine == 1 else i for mine, i in zip(tensor.shape, index, strict=True))
    value = float(tensor.detach()[spot])
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Inf" if value > 0 else "-Inf")
