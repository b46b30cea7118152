"""Tensors in nested arguments and results, of whatever containers these are made.

Known are tuples, named tuples, lists, mappings, dataclasses (also those that are mappings, as in
transformers) and plain objects whose attributes hold tensors (a distribution, a batch).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

DEEPEST = 8
"""Levels of nesting that are looked at: deeper ones are rather a cycle than a result."""


def tensors(thing: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``thing`` with its path (``1``, ``hidden.0``, "" for the thing itself)."""
    if isinstance(thing, Tensor):
        yield path, thing
    elif depth < DEEPEST:
        for key, item in _items(thing):
            yield from tensors(item, f"{path}.{key}" if path else str(key), depth + 1)


def mapped(thing: Any, change: Callable[[Tensor], Tensor], depth: int = 0) -> Any:
    """``thing`` with ``change`` applied to every tensor; containers keep their types.

    What holds no tensor, and what ``change`` leaves as it is, is the same object as before.
    """
    if isinstance(thing, Tensor):
        return change(thing)
    if depth >= DEEPEST:
        return thing
    items = list(_items(thing))
    new = [mapped(item, change, depth + 1) for _, item in items]
    if all(a is b for a, (_, b) in zip(new, items, strict=True)):
        return thing
    return _rebuilt(thing, [key for key, _ in items], new)


def once(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``change``, which gives the same result for a tensor that it meets again."""
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def changed(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            # the tensor is held, too: an identity that is free can come back
            made[id(tensor)] = tensor, change(tensor)
        return made[id(tensor)][1]

    return changed


def differentiable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be moved a little: floating or complex, dense, not meta."""
    return (
        (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
    )


def kept(tensor: Tensor) -> Tensor:
    """A detached copy with the same strides, also where elements overlap or leave gaps."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        return tensor.clone()
    if dense(tensor):
        return tensor.clone(memory_format=torch.preserve_format)
    return span(tensor).as_strided(tensor.shape, tensor.stride())


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps and overlaps, in whatever order."""
    expected = 1
    for stride, size in sorted(
        zip(tensor.stride(), tensor.shape, strict=True), key=lambda item: item[0]
    ):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def span(tensor: Tensor) -> Tensor:
    """A copy of the memory between the first and the last element of a strided tensor: 1-D."""
    if not tensor.numel():
        return tensor.new_empty(0)
    last = sum((s - 1) * st for s, st in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((last + 1,), (1,), tensor.storage_offset()).clone()


def _items(thing: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(thing, (str, bytes, torch.Size, nn.Module, type)) or thing is None:
        return
    if isinstance(thing, Mapping):
        yield from list(thing.items())
    elif isinstance(thing, tuple) and hasattr(thing, "_fields"):
        yield from zip(thing._fields, thing, strict=True)
    elif isinstance(thing, (tuple, list)):
        yield from enumerate(thing)
    elif is_dataclass(thing):
        for field in fields(thing):
            if hasattr(thing, field.name):
                yield field.name, getattr(thing, field.name)
    elif hasattr(thing, "__dict__") and not callable(thing):
        yield from list(vars(thing).items())


def _rebuilt(thing: Any, keys: list[Any], new: list[Any]) -> Any:
    if isinstance(thing, tuple):
        made = type(thing)
        return made(*new) if hasattr(thing, "_fields") else made(new)
    other = copy.copy(thing)
    if isinstance(thing, list):
        other[:] = new
        return other
    if isinstance(thing, Mapping):
        if hasattr(other, "__setitem__"):
            for key, item in zip(keys, new, strict=True):
                other[key] = item
            return other
        return type(thing)(dict(zip(keys, new, strict=True)))  # type: ignore[call-arg]
    for key, item in zip(keys, new, strict=True):
        object.__setattr__(other, key, item)
    return other
