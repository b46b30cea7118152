"""Tensors in whatever a module takes or returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

_ATOMS = (str, bytes, int, float, complex, type(None), type, nn.Module)


def tensors_in(tree: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, in order.

    Of any other object the tensors that are its attributes: an output of the user's own class.
    """
    return list(_walk(tree))


def numbers_in(tree: Any) -> list[Tensor]:
    """Those of ``tensors_in`` that hold real or complex numbers, and so can have a gradient."""
    return [t for t in _walk(tree) if t.is_floating_point() or t.is_complex()]


def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Length of axis 0 of the first tensor argument that has one, else of the first number in any.

    Args:
        args: positional arguments of a module.
        kwargs: keyword arguments.
    """
    for thing in (*args, *kwargs.values()):
        if isinstance(thing, Tensor) and thing.dim():
            return int(thing.shape[0])
    first = next(iter(numbers_in((args, kwargs))), None)
    return int(first.shape[0]) if first is not None and first.dim() else None


def _walk(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, _ATOMS):
        return
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from _walk(item)
    elif isinstance(thing, (tuple, list, deque)):
        for item in thing:
            yield from _walk(item)
    elif is_dataclass(thing):
        for entry in fields(thing):
            yield from _walk(getattr(thing, entry.name, None))
    else:
        for value in getattr(thing, "__dict__", {}).values():
            if isinstance(value, Tensor):
                yield value
