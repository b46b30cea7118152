"""One sample of a batch, and which one the model does worst on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 256
"""Samples among which the worst one is looked for: each takes a forward pass of its own."""


@dataclass(frozen=True)
class Samples:
    """A batch as its samples.

    Attributes:
        count: how many.
        take: gives one as a batch of one.
    """

    count: int
    take: Callable[[int], Any]


def samples(batch: Any) -> Samples | None:
    """The samples of a batch, along axis 0 of its tensors; None where there is no such axis.

    Of tensors whose axis 0 has another length, axis 1 is taken where that fits (time first).
    """
    tensors = [tensor for tensor in _tensors(batch) if tensor.dim()]
    if not tensors:
        return None
    lengths = Counter(len(tensor) for tensor in tensors)
    most = max(lengths.values())
    # of several lengths that are as frequent the last tensor's counts: the target's
    count = next(len(t) for t in reversed(tensors) if lengths[len(t)] == most)
    fits = all(
        len(tensor) == count or (tensor.dim() > 1 and tensor.shape[1] == count)
        for tensor in tensors
    )
    if not fits or count < 1:
        return None
    return Samples(count, lambda index: _taken(batch, index, count))


def worst(found: Samples, loss: Callable[[Any], float]) -> tuple[int, list[float]]:
    """Index of the sample with the largest loss among the first ``MOST``, and all their losses."""
    losses = [loss(found.take(index)) for index in range(min(found.count, MOST))]
    # a loss that is NaN is the worst of all
    rank = [math.inf if math.isnan(value) else value for value in losses]
    return max(range(len(rank)), key=rank.__getitem__), losses


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from _tensors(item)
    elif isinstance(thing, tuple | list):
        for item in thing:
            yield from _tensors(item)


def _taken(thing: Any, index: int, count: int) -> Any:
    if isinstance(thing, Tensor):
        if not thing.dim() or thing.layout is not torch.strided:
            return thing
        if len(thing) == count:
            return thing[index : index + 1]
        return thing[:, index : index + 1] if thing.dim() > 1 else thing
    if isinstance(thing, Mapping):
        made = {key: _taken(item, index, count) for key, item in thing.items()}
        return made if type(thing) is dict else _like(thing, made)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_taken(item, index, count) for item in thing))
    if isinstance(thing, tuple | list):
        plain = not any(True for _ in _tensors(thing))
        if plain and len(thing) == count:
            return type(thing)(thing[index : index + 1])
        return type(thing)(_taken(item, index, count) for item in thing)
    return thing


def _like(thing: Mapping[Any, Any], made: dict[Any, Any]) -> Any:
    """A mapping of another kind (BatchEncoding …) where it can be made of a dict."""
    try:
        return type(thing)(made)  # type: ignore[call-arg]
    except TypeError:
        return made
