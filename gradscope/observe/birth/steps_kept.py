"""The state of optimizers, put back after a step that was only a replay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def optimizers_kept(optimizers: Sequence[Any]) -> Iterator[None]:
    """State tensors, counters and the settings of parameter groups, as before at the end.

    Args:
        optimizers: objects with ``state`` and ``param_groups``; others are left alone.
    """
    kept = [
        (optimizer, _state(optimizer), _groups(optimizer))
        for optimizer in optimizers
        if hasattr(optimizer, "state") and hasattr(optimizer, "param_groups")
    ]
    try:
        yield
    finally:
        for optimizer, state, groups in kept:
            _put_back(optimizer, state, groups)


def _state(optimizer: Any) -> dict[Any, dict[str, tuple[Any, Any]]]:
    return {
        parameter: {name: (value, _copy(value)) for name, value in entry.items()}
        for parameter, entry in optimizer.state.items()
        if isinstance(entry, dict)
    }


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if type(value) in (list, dict) else value


def _groups(optimizer: Any) -> list[dict[str, tuple[Any, Any]]]:
    return [
        {name: (value, _copy(value)) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def _put_back(optimizer: Any, state: Any, groups: Any) -> None:
    for parameter in [key for key in optimizer.state if key not in state]:
        del optimizer.state[parameter]
    for parameter, entry in state.items():
        present = optimizer.state[parameter]
        present.clear()
        present.update({name: _restored(*pair) for name, pair in entry.items()})
    for group, settings in zip(optimizer.param_groups, groups, strict=False):
        for name in [name for name in group if name != "params" and name not in settings]:
            del group[name]
        group.update({name: _restored(*pair) for name, pair in settings.items()})


def _restored(value: Any, copy: Any) -> Any:
    if isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(copy)
    elif isinstance(value, (list, dict)) and type(copy) is type(value):
        value.clear()
        value.extend(copy) if isinstance(value, list) else value.update(copy)
    return value
