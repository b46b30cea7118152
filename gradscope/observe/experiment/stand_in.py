"""Linear stand-ins for modules: what surrounds them can then be judged without them.

A stand-in gives the module's own result at the point where it was first called, and from there
moves along a fixed linear map of the arguments, whose backward is PyTorch's own and therefore
right. The module's hooks do not run.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.experiment.linear_map import spread
from gradscope.observe.reading.nested import differentiable, kept, mapped, tensors

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class ModuleReplacement:
    """Replaces modules by linear stand-ins while it is entered."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Make a replacement; nothing is touched before it is entered."""
        self._modules = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
        self._saved: list[tuple[nn.Module, Any, list[dict[Any, Any]]]] = []
        self._points: dict[tuple[int, int], tuple[list[Tensor], Any, frozenset[str]]] = {}
        self._counts: dict[int, int] = {}
        self._given: dict[tuple[int, int], list[Tensor]] = {}

    def begin(self) -> None:
        """Tell that a new evaluation of the same function begins."""
        self._counts = {}
        self._given = {}

    def __enter__(self) -> ModuleReplacement:
        for number, module in enumerate(self._modules):
            own = vars(module).get("forward")
            hooks = [dict(getattr(module, name)) for name in _HOOKS]
            self._saved.append((module, own, hooks))
            self._put(number, module, own, hooks)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for module, own, hooks in self._saved:
            _real(module, own, hooks)
        self._saved = []

    def _put(self, number: int, module: nn.Module, own: Any, hooks: list[dict[Any, Any]]) -> None:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            given = [t for _, t in tensors((args, kwargs)) if differentiable(t)]
            index = self._index(number, given)
            known = self._points.get((number, index))
            if known is None:
                origin = [t.detach().clone() for t in given]
                _real(module, own, hooks)
                try:
                    output = module(*args, **kwargs)
                finally:
                    _unhooked(module, stand_in)
                moving = frozenset(p for p, t in tensors(output) if differentiable(t))
                known = self._points[number, index] = origin, mapped(output, kept), moving
            origin, output, moving = known
            paths = iter(path for path, _ in tensors(output))

            def value(tensor: Tensor) -> Tensor:
                if next(paths) not in moving:
                    return tensor
                return _moved(tensor, given, origin)

            return mapped(output, value)

        _unhooked(module, stand_in)

    def _index(self, number: int, given: list[Tensor]) -> int:
        """How manyeth call of a module this is; one that runs again in backward is known."""
        if private.current_graph_task_id() != -1:
            for (module, index), before in self._given.items():
                if module == number and all(map(torch.equal, before, given)):
                    return index
        index = self._counts.get(number, 0)
        self._counts[number] = index + 1
        self._given[number, index] = [t.detach() for t in given]
        return index


def _moved(value: Tensor, given: list[Tensor], origin: list[Tensor]) -> Tensor:
    new = value.clone()
    for tensor, start in zip(given, origin, strict=True):
        if tensor.shape == start.shape:
            # an infinite entry (a mask) minus itself is no number, and nothing that moves
            difference = torch.where(start.isfinite(), tensor - start, torch.zeros_like(start))
            new = new + spread(difference, value.shape, value.dtype)
    return new


def _unhooked(module: nn.Module, forward: Any) -> None:
    for name in _HOOKS:
        getattr(module, name).clear()
    vars(module)["forward"] = forward


def _real(module: nn.Module, own: Any, hooks: list[dict[Any, Any]]) -> None:
    for name, saved in zip(_HOOKS, hooks, strict=True):
        table = getattr(module, name)
        table.clear()
        table.update(saved)
    if own is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = own
