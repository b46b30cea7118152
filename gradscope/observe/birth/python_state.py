"""Plain Python attributes of modules, put back after a replay has run the forward once more."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe import private

_OWN = frozenset(vars(nn.Module())) - {"training"}
"""What torch keeps in a module itself: parameters, buffers and hooks."""
_CONTAINERS = (list, dict, set, deque)
_COPIED = 65_536
"""Elements up to which a tensor attribute that is no buffer is copied."""


@contextlib.contextmanager
def attributes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Counters, lists, caches and tensors that a forward keeps in ``self``, as before at the end.

    An attribute gets the object back that it had; a list, dict, set or deque also its items, one
    level deep; a small tensor that is no buffer its numbers. Attributes made inside are taken off.
    """
    kept = [(module, _saved(module)) for module in modules]
    try:
        yield
    finally:
        for module, saved in kept:
            _put_back(module, saved)


def _saved(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    return {
        name: (value, _contents(value)) for name, value in vars(module).items() if name not in _OWN
    }


def _contents(value: Any) -> Any:
    if type(value) in _CONTAINERS:
        return value.copy()
    if isinstance(value, Tensor) and not value.is_meta and value.numel() <= _COPIED:
        return private.version(value), value.detach().clone()
    return None


def _put_back(module: nn.Module, saved: dict[str, tuple[Any, Any]]) -> None:
    present = vars(module)
    for name in [name for name in present if name not in _OWN and name not in saved]:
        del present[name]
    for name, (value, contents) in saved.items():
        present[name] = value
        if contents is None:
            continue
        if isinstance(value, Tensor):
            version, numbers = contents
            if private.version(value) != version:
                with torch.no_grad():
                    value.detach().copy_(numbers)
        elif isinstance(value, (list, deque)):
            if len(value) != len(contents) or any(
                a is not b for a, b in zip(value, contents, strict=True)
            ):
                value.clear()
                value.extend(contents)
        else:
            value.clear()
            value.update(contents)
