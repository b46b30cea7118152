"""A fixed linear map between tensors of any two shapes, and its adjoint."""

from __future__ import annotations

import torch
from torch import Tensor


def moves(tensor: Tensor) -> bool:
    """Whether a tensor carries derivatives."""
    return tensor.is_floating_point() or tensor.is_complex()


def spread(source: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A fixed linear map from ``source`` to ``shape``: its elements with signs, over and over."""
    count = shape.numel()
    if not count or not source.numel():
        return torch.zeros(shape, dtype=dtype, device=source.device)
    index, signs = _pattern(source.numel(), count, source.device)
    flat = source.reshape(-1)[index] * signs
    if dtype.is_complex != flat.is_complex():
        flat = flat.to(dtype) if dtype.is_complex else flat.real
    return flat.to(dtype).reshape(shape)


def spread_back(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The adjoint of ``spread``: from a gradient at its result to one at its source."""
    result = torch.zeros(shape.numel(), dtype=dtype, device=grad.device)
    if not grad.numel() or not result.numel():
        return result.reshape(shape)
    index, signs = _pattern(result.numel(), grad.numel(), grad.device)
    flat = grad.reshape(-1) * signs
    if dtype.is_complex != flat.is_complex():
        flat = flat.to(dtype) if dtype.is_complex else flat.real
    return result.index_add(0, index, flat.to(dtype)).reshape(shape)


def _pattern(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    positions = torch.arange(target, device=device)
    index = (positions * max(source // target, 1)) % source
    # signs that follow no power of two, so that sums over an axis do not cancel
    signs = 1.0 - 2.0 * ((positions * 7 // 3) % 2).to(torch.float64)
    return index, signs
