"""Dense real views of any gradient, and fixed strided samples of them, without a whole copy."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe import private

Count = TypeVar("Count", int, npt.NDArray[np.int64])


_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def plain(tensor: Tensor) -> Tensor | None:
    """``tensor`` as a detached dense real tensor with the same norm, None if there is no way.

    Sparse: the values of the coalesced tensor (an uncoalesced one counts an index several times).
    Complex: seen as pairs of reals. Nested: its values. DTensor: this rank's shard. A subclass
    that stands for numbers held elsewhere (quantised weights): there is no way.
    """
    if (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype in _PLAIN_DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_nested
    ):
        # nearly every tensor there is, told apart without the detours of the others
        return tensor.detach() if tensor.requires_grad else tensor
    if private.own_dispatch(type(tensor)):
        local = getattr(tensor, "to_local", None)
        if local is not None:
            tensor = local()
        elif not tensor.is_nested:
            return None
    elif type(tensor) not in _PLAIN_TYPES:
        tensor = private.base_tensor(tensor)
    tensor = tensor.detach()
    if tensor.layout is torch.jagged or tensor.is_nested:
        tensor = tensor.values()
    elif tensor.layout in (torch.sparse_coo,):
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_quantized:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    # of numbers of 8 bits torch can take neither sum nor maximum
    return tensor if tensor.is_floating_point() and tensor.element_size() > 1 else None


def distinct(tensor: Tensor) -> tuple[Tensor, int]:
    """The elements of a dense tensor without repetition, in any order, and how often each stands.

    A view wherever one can be had: torch copies what is not contiguous before it takes a maximum,
    of an expanded mask far more than the memory that it has.
    """
    first = tuple(
        slice(0, 1) if stride == 0 and length > 1 else slice(None)
        for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
    once = tensor[first]
    times = tensor.numel() // max(once.numel(), 1)
    return (flat_sample(once, once.numel()) if is_dense(once) else once), times


def columns(tensor: Tensor, size: int) -> Tensor:
    """Of each row (axis 0) of a dense tensor at most ``size`` elements at a fixed stride."""
    count = tensor[0].numel()
    stride = max(-(-count // size), 1)
    if tensor.is_contiguous():
        return tensor.reshape(len(tensor), -1)[:, ::stride]
    positions = torch.arange(0, count, stride, device=tensor.device)
    index: tuple[Any, ...] = torch.unravel_index(positions, tensor.shape[1:])
    return tensor[(slice(None), *index)]


def flat_sample(tensor: Tensor, size: int) -> Tensor:
    """At most ``size`` elements of a dense tensor at a fixed stride, ``[n]``.

    A view wherever the elements lie densely in memory, in any order of axes: the same tensor gives
    the same positions on every step.
    """
    count = tensor.numel()
    stride = sample_stride(count, size)
    if is_dense(tensor):
        return tensor.as_strided((count,), (1,), tensor.storage_offset())[::stride]
    if stride == 1:
        return tensor.reshape(-1)
    # flattening would copy the whole, of an expanded mask far more than its memory
    positions = torch.arange(0, count, stride, device=tensor.device)
    return tensor[torch.unravel_index(positions, tensor.shape)]


def sample_stride(count: Count, size: int) -> Count:
    """The stride at which ``count`` elements are sampled, for one tensor or an array of them.

    Odd: an even one would meet only some columns of a matrix whose width is a power of two.
    """
    stride = -(-count // size)
    return stride + 1 - stride % 2


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie in one block of memory without gaps, in any order of axes."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length == 1:
            continue
        if stride != expected:
            return False
        expected *= length
    return True
