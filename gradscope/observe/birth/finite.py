"""Whether numbers are finite, and which samples of a batch are not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

SAMPLES = 32
"""Samples of a batch that are listed."""


class Batch(NamedTuple):
    """How the samples of a batch lie in memory.

    Attributes:
        size: length of axis 0 of the root's input.
        length: length of its axis 1, where it has one: positions of a sequence.
    """

    size: int
    length: int | None = None


def state_of(value: Any) -> int:
    """0: finite or no number, 1: holds an Inf and no NaN, 2: holds a NaN."""
    if isinstance(value, (float, complex)):
        number = abs(value)
        return 2 if math.isnan(number) else int(math.isinf(number))
    if not isinstance(value, Tensor) or value.is_meta:
        return 0
    if not (value.is_floating_point() or value.is_complex()):
        return 0
    dense = value._values() if value.is_sparse else value
    if dense.layout is not torch.strided or not dense.numel():
        return 0
    if bool(torch.isfinite(dense).all()):
        return 0
    return 2 if bool(torch.isnan(dense).any()) else 1


def bad_samples(
    tensor: Tensor, batch: Batch | int | None, *, nan_only: bool = False
) -> tuple[int, ...]:
    """Indices along the batch that hold a NaN or Inf; at most SAMPLES.

    Known where axis 0 of ``tensor`` is the batch, or the batch and the positions of a sequence in
    one (a language model's logits as its loss takes them); () elsewhere.
    """
    if isinstance(batch, int):
        batch = Batch(batch)
    if batch is None or tensor.dim() == 0 or not tensor.numel():
        return ()
    rows = tensor.shape[0]
    if rows != batch.size and (not batch.length or rows != batch.size * batch.length):
        return ()
    values = tensor.detach()
    bad = torch.isnan(values) if nan_only else ~torch.isfinite(values)
    found = bad.reshape(batch.size, -1).any(1).nonzero()[:SAMPLES, 0]
    return tuple(int(row) for row in found)
