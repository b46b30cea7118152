"""Everything that may move between two evaluations of a module, held still.

That is: the random states of torch, numpy and ``random``; generators, buffers, parameters that a
forward writes to; attributes of modules and of plain objects in them (counters, caches, lists);
numbers in the user's classes and in the files that define them.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.observe.experiment import movable
from gradscope.observe.experiment.movable import Item

_TORCHS = frozenset(vars(nn.Module())) - {"training"}
"""What PyTorch itself keeps in a module: not a state of the user's."""
_DEEPEST = 4
_LONGEST = 1_000
"""Items of a container that are looked at: beyond it, it is a data set and not a state."""
_LIBRARIES = frozenset(
    ("torch", "builtins", "numpy", "collections", "typing", "abc", "gradscope", "_pytest", "pytest")
)


class Frozen:
    """A state to come back to: that of the moment at which it was made."""

    def __init__(self, modules: Iterable[nn.Module] = (), things: Iterable[Any] = ()) -> None:
        """Keep the state of ``modules`` (each alone, not its children), ``things`` and the process.

        Args:
            modules: all modules whose state counts.
            things: further objects, such as a loss.
        """
        self._seen: set[int] = set()
        self._items: list[Item] = list(movable.random_states())
        modules, things = list(modules), list(things)
        for module in modules:
            self._module(module)
        for thing in things:
            self._value(thing, 0)
        for cls in dict.fromkeys(type(thing) for thing in (*modules, *things)):
            self._class(cls)

    def restore(self) -> None:
        """Put everything back as it was."""
        for item in self._items:
            item.restore()

    def narrow(self) -> None:
        """Keep only what has moved since it was made. Call it after a full run."""
        self._items = [item for item in self._items if item.moved()]

    def again(self) -> Frozen:
        """The present state of what this one holds."""
        other = Frozen.__new__(Frozen)
        other._seen = set()
        other._items = [item.again() for item in self._items]
        return other

    # ------------------------------------------------------------------ what is kept

    def _module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            # its tables are views of what the interpreter holds: only values can move
            for held in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._value(held, 0)
            return
        for table in (module._parameters, module._buffers):
            self._items.append(movable.bindings(table))
            for tensor in table.values():
                if tensor is not None and not is_lazy(tensor):
                    self._value(tensor, 0)
        inner = vars(module)
        self._items.append(movable.bindings(inner, _TORCHS))
        own = {name: value for name, value in inner.items() if name not in _TORCHS}
        for value in own.values():
            self._value(value, 0)
        counters = {k: v for k, v in own.items() if isinstance(v, itertools.count)}
        self._items += movable.numbers(module, counters)

    def _value(self, value: Any, depth: int) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, type, nn.Module)):
            return
        if id(value) in self._seen or depth > _DEEPEST:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            item = movable.tensor(value)
            self._items += [item] if item is not None else []
        elif isinstance(value, (list, dict, set, deque)):
            if len(value) <= _LONGEST:
                self._items.append(movable.container(value))
                for part in list(value.values() if isinstance(value, dict) else value):
                    self._value(part, depth + 1)
        elif isinstance(value, tuple):
            for part in value[:_LONGEST]:
                self._value(part, depth + 1)
        elif (item := movable.generator(value)) is not None:
            self._items.append(item)
        elif isinstance(value, np.ndarray):
            self._items.append(movable.array(value))
        elif hasattr(value, "__dict__") and not callable(value) and not _of_library(type(value)):
            inner = vars(value)
            self._items.append(movable.bindings(inner))
            for part in list(inner.values()):
                self._value(part, depth + 1)
            self._items += movable.numbers(
                value, {k: v for k, v in inner.items() if isinstance(v, itertools.count)}
            )

    def _class(self, cls: type) -> None:
        """Numbers in the user's classes, and what the files that define these hold."""
        for base in cls.__mro__:
            if _of_library(base) or id(base) in self._seen:
                continue
            self._seen.add(id(base))
            self._items += movable.numbers(base, vars(base))
            file = sys.modules.get(base.__module__)
            if file is None or id(file) in self._seen:
                continue
            self._seen.add(id(file))
            self._items += movable.numbers(file, vars(file))
            for name, value in list(vars(file).items()):
                if name.startswith("__"):
                    continue
                if isinstance(value, type) and value.__module__ == base.__module__:
                    self._items += movable.numbers(value, vars(value))
                elif isinstance(value, (list, dict, set, deque)) and len(value) <= _LONGEST:
                    self._items.append(movable.container(value))
                elif (item := movable.generator(value)) is not None:
                    self._items.append(item)


def _of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _LIBRARIES
