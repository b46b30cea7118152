"""A hook on a module that leaves no trace: nothing in copies, nothing in compiled programs."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Call = Callable[..., None]


def inert(*_args: Any, **_kwargs: Any) -> None:
    """What a hook becomes in a copy of the model: nothing."""


class ModuleHook:
    """One hook of one module; a pickled or deep-copied model carries an inert one.

    It tells of the module for which the hooked one stands: the wrapper that ``torch.compile``
    makes is called where its inner module is meant.
    """

    __slots__ = ("_call", "_meant", "_module")

    def __init__(self, module: nn.Module, call: Call, meant: nn.Module | None = None) -> None:
        self._module = weakref.ref(module)
        self._meant = self._module if meant is None else weakref.ref(meant)
        self._call = call

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """Tell of a call, unless a copy of the module or a program being made makes it."""
        # torch.compile and torch.export inline what a hook does: it has to be nothing
        if not torch.compiler.is_compiling() and module is self._module():
            meant = self._meant()
            if meant is not None:
                self._call(meant, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        # does nothing and returns None too, and is read back where there is no gradscope
        return getattr, (contextlib.nullcontext(), "__exit__")

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return inert


def hook_both(
    module: nn.Module, before: Call, after: Call, meant: nn.Module | None = None
) -> list[RemovableHandle]:
    """Call ``before(module, args, kwargs)`` and ``after(module, args, kwargs, output)``."""
    return [
        module.register_forward_pre_hook(ModuleHook(module, before, meant), with_kwargs=True),
        # always_call: after an exception, too, the end of a root's forward has to be told
        module.register_forward_hook(
            ModuleHook(module, after, meant), with_kwargs=True, always_call=True
        ),
    ]
