"""Calls of custom Functions, answered by a known linear map instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.observe import private
from gradscope.observe.experiment.functions import Exchanged, separate_context
from gradscope.observe.experiment.linear_map import moves, spread, spread_back


class FunctionReplacement(Exchanged):
    """Gives some calls of custom Functions a known linear stand-in while it is entered.

    The stand-in has the value of the real call at the point where it was first evaluated, and from
    there moves along a fixed linear map of the inputs, whose backward is exact. So what surrounds
    the Function can be compared with finite differences although the Function itself is no
    derivative, by design or by mistake.
    """

    def __init__(self, which: Callable[[int, type[Function]], bool]) -> None:
        """``which``: whether to replace the call of this index and class."""
        super().__init__()
        self._which = which
        self._points: dict[int, tuple[list[Tensor | None], list[Tensor | None]]] = {}
        self._pending: list[tuple[torch.Size, torch.dtype] | None] | None = None
        self._count = 0
        self._inside = 0

    def begin(self) -> None:
        """Tell that a new evaluation of the same function begins."""
        self._count = 0

    def exchange(self, cls: type[Function]) -> None:
        """Let the stand-in answer for ``cls`` where it is asked to."""
        self.put(cls, "forward", self._forward(cls, cls.forward))
        self.put(cls, "backward", self._backward(cls.backward))
        if separate_context(cls):
            self.put(cls, "setup_context", self._context(cls.setup_context))

    def _forward(self, cls: type[Function], forward: Callable[..., Any]) -> Callable[..., Any]:
        apart = separate_context(cls)

        def replaced(*args: Any) -> Any:
            self._pending = None
            if self._inside or private.current_graph_task_id() != -1:
                return forward(*args)
            index, self._count = self._count, self._count + 1
            if not self._which(index, cls):
                return forward(*args)
            ctx, given = (None, args) if apart else (args[0], args[1:])
            before = [a.detach().clone() if isinstance(a, Tensor) else None for a in given]
            self._inside += 1
            try:
                output = forward(*args)
            finally:
                self._inside -= 1
            parts = output if isinstance(output, tuple) else (output,)
            if index not in self._points:
                values = [p.detach().clone() if isinstance(p, Tensor) else None for p in parts]
                self._points[index] = before, values
            origin, values = self._points[index]
            inputs = [(a.shape, a.dtype) if a is not None and moves(a) else None for a in before]
            if ctx is None:
                self._pending = inputs
            else:
                ctx.gradscope_inputs = inputs
            dirty = given if ctx is None else getattr(ctx, "dirty_tensors", None) or ()
            new = tuple(
                _stand_in(part, value, before, origin, dirty)
                for part, value in zip(parts, values, strict=True)
            )
            return new if isinstance(output, tuple) else new[0]

        return replaced

    def _context(self, setup: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(ctx: Any, inputs: Any, output: Any) -> Any:
            if self._pending is not None:
                ctx.gradscope_inputs, self._pending = self._pending, None
            return setup(ctx, inputs, output)

        return replaced

    def _backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(ctx: Any, *grads: Any) -> Any:
            inputs = getattr(ctx, "gradscope_inputs", None)
            if inputs is None:
                return backward(ctx, *grads)
            found: list[Tensor | None] = []
            for entry in inputs:
                if entry is None:
                    found.append(None)
                    continue
                shape, dtype = entry
                total = torch.zeros(shape, dtype=dtype)
                for grad in grads:
                    if isinstance(grad, Tensor) and moves(grad):
                        total = total.to(grad.device) + spread_back(grad, shape, dtype)
                found.append(total)
            return tuple(found)

        return replaced


def _stand_in(
    part: Any,
    value: Tensor | None,
    now: list[Tensor | None],
    origin: list[Tensor | None],
    dirty: Sequence[Any],
) -> Any:
    if value is None or not isinstance(part, Tensor) or not moves(part):
        return part
    new = value.clone()
    for tensor, start in zip(now, origin, strict=True):
        if tensor is not None and start is not None and moves(tensor):
            new = new + spread(tensor - start, value.shape, value.dtype)
    if any(part is other for other in dirty):
        part.copy_(new)
        return part
    return new
