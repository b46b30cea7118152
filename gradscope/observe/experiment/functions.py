"""Calls of custom ``torch.autograd.Function`` classes, seen and, where asked, replaced.

``apply`` is often kept under another name before anybody could patch it, but it looks up
``forward`` and ``backward`` of the class at each call. So it is these that are exchanged, on every
subclass that is not PyTorch's own, and put back at the end.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from gradscope.observe import private
from gradscope.observe.capture import Capture
from gradscope.observe.frames import owner
from gradscope.observe.reading.nested import kept, mapped


@dataclass(eq=False)
class FunctionCall:
    """One call of a custom Function.

    Attributes:
        cls: the Function.
        index: how manyeth call of any custom Function it is inside the captured pass, from 0.
        module: the innermost module that was running, None outside all.
        args: copies of what it was given; parameters stand as themselves.
        wanted: positions of the tensors that required grad.
        output: a copy of what it gave.
    """

    cls: type[Function]
    index: int
    module: nn.Module | None
    args: tuple[Any, ...]
    wanted: frozenset[int]
    output: Any = None


def custom_functions() -> Iterator[type[Function]]:
    """Every subclass of Function that now exists, without PyTorch's own."""
    pending, seen = list(Function.__subclasses__()), set()
    while pending:
        cls = pending.pop()
        if cls in seen:
            continue
        seen.add(cls)
        pending += cls.__subclasses__()
        if cls.__module__.partition(".")[0] not in ("torch", "functorch"):
            yield cls


def users_functions() -> Iterator[type[Function]]:
    """Those of ``custom_functions`` that are defined in the user's own files."""
    for cls in custom_functions():
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file is None or owner(file) == "user":
            yield cls


def place_of(cls: type[Function]) -> tuple[str, int] | None:
    """File and line of a Function's backward, of the class where it has none of its own."""
    for thing in (vars(cls).get("backward"), vars(cls).get("vjp"), cls):
        thing = getattr(thing, "__func__", thing)
        if thing is None:
            continue
        try:
            lines, start = inspect.getsourcelines(thing)
            file = inspect.getsourcefile(thing) or ""
        except (OSError, TypeError):
            continue
        # decorators stand above the line that one wants to see
        words = ("def ", "class ", "async ")
        below = (i for i, line in enumerate(lines) if line.lstrip().startswith(words))
        return file, start + next(below, 0)
    return None


class _Exchange:
    """Methods of classes that are exchanged for a while."""

    def __init__(self) -> None:
        self._saved: list[tuple[type, str, bool, Any]] = []

    def put(self, cls: type, name: str, method: Callable[..., Any]) -> None:
        own = name in vars(cls)
        self._saved.append((cls, name, own, vars(cls).get(name)))
        setattr(cls, name, staticmethod(method))

    def undo(self) -> None:
        for cls, name, own, old in reversed(self._saved):
            if own:
                setattr(cls, name, old)
            else:
                delattr(cls, name)
        self._saved = []


class FunctionCapture:
    """Records calls of custom Functions while it is entered.

    Attributes:
        calls: in the order in which they began.
    """

    def __init__(self, modules: Capture | None = None) -> None:
        """``modules``: a capture that is entered around this one and knows which module runs."""
        self.calls: list[FunctionCall] = []
        self._modules = modules
        self._exchange = _Exchange()
        self._inside = 0

    def __enter__(self) -> FunctionCapture:
        for cls in custom_functions():
            self._exchange.put(cls, "forward", self._seen(cls, cls.forward))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exchange.undo()

    def _seen(self, cls: type[Function], forward: Callable[..., Any]) -> Callable[..., Any]:
        apart = separate_context(cls)

        def seen(*args: Any) -> Any:
            backward = private.current_graph_task_id() != -1
            if self._inside or backward or private.functorch_level_active():
                return forward(*args)
            call = self._begin(cls, args if apart else args[1:])
            self._inside += 1
            try:
                output = forward(*args)
            finally:
                self._inside -= 1
            call.output = mapped(output, kept)
            return output

        return seen

    def _begin(self, cls: type[Function], given: tuple[Any, ...]) -> FunctionCall:
        running = self._modules.current if self._modules is not None else None
        wanted = frozenset(
            i for i, a in enumerate(given) if isinstance(a, Tensor) and a.requires_grad
        )
        call = FunctionCall(
            cls, len(self.calls), running.module if running is not None else None,
            tuple(_copied(a) for a in given), wanted,
        )  # fmt: skip
        self.calls.append(call)
        return call


class BackwardUnder:
    """Runs the backward of custom Functions under a mode: the engine does not carry modes there."""

    def __init__(self, mode: Callable[[], AbstractContextManager[Any]]) -> None:
        """``mode``: makes the context in which each backward runs."""
        self._mode = mode
        self._exchange = _Exchange()

    def __enter__(self) -> BackwardUnder:
        for cls in custom_functions():
            self._exchange.put(cls, "backward", self._within(cls.backward))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exchange.undo()

    def _within(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any) -> Any:
            with self._mode():
                return backward(*args)

        return within


class FunctionReplacement:
    """Gives some calls of custom Functions a known linear stand-in while it is entered.

    The stand-in has the value of the real call at the point where it was first evaluated, and from
    there moves along a fixed linear map of the inputs, whose backward is exact. So what surrounds
    the Function can be compared with finite differences although the Function itself is no
    derivative, by design or by mistake.
    """

    def __init__(self, which: Callable[[int, type[Function]], bool]) -> None:
        """``which``: whether to replace the call of this index and class."""
        self._which = which
        self._exchange = _Exchange()
        self._points: dict[int, tuple[list[Tensor | None], list[Tensor | None]]] = {}
        self._pending: list[tuple[torch.Size, torch.dtype] | None] | None = None
        self._count = 0
        self._inside = 0

    def begin(self) -> None:
        """Tell that a new evaluation of the same function begins."""
        self._count = 0

    def __enter__(self) -> FunctionReplacement:
        for cls in custom_functions():
            self._exchange.put(cls, "forward", self._forward(cls, cls.forward))
            self._exchange.put(cls, "backward", self._backward(cls.backward))
            if separate_context(cls):
                self._exchange.put(cls, "setup_context", self._context(cls.setup_context))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exchange.undo()

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


def separate_context(cls: type[Function]) -> bool:
    """Whether ``forward`` takes no ctx, because ``setup_context`` does."""
    return cls.setup_context is not Function.setup_context


def moves(tensor: Tensor) -> bool:
    """Whether a tensor carries derivatives."""
    return tensor.is_floating_point() or tensor.is_complex()


def spread(source: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A fixed linear map from ``source`` to ``shape``: its elements with signs, over and over."""
    count = shape.numel()
    if not count or not source.numel():
        return torch.zeros(shape, dtype=dtype, device=source.device)
    index, signs = _pattern(source.numel(), count, source.device)
    flat = source.reshape(-1)[index] * signs
    if dtype.is_complex != flat.is_complex():
        flat = flat.to(dtype) if dtype.is_complex else flat.real
    return flat.to(dtype).reshape(shape)


def spread_back(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The adjoint of ``spread``: from a gradient at its result to one at its source."""
    result = torch.zeros(shape.numel(), dtype=dtype, device=grad.device)
    if not grad.numel() or not result.numel():
        return result.reshape(shape)
    index, signs = _pattern(result.numel(), grad.numel(), grad.device)
    flat = grad.reshape(-1) * signs
    if dtype.is_complex != flat.is_complex():
        flat = flat.to(dtype) if dtype.is_complex else flat.real
    return result.index_add(0, index, flat.to(dtype)).reshape(shape)


def _pattern(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    positions = torch.arange(target, device=device)
    index = (positions * max(source // target, 1)) % source
    # signs that follow no power of two, so that sums over an axis do not cancel
    signs = 1.0 - 2.0 * ((positions * 7 // 3) % 2).to(torch.float64)
    return index, signs


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


def _copied(thing: Any) -> Any:
    if isinstance(thing, nn.Parameter):
        return thing
    return mapped(thing, kept)
