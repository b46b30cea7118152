"""Calls of custom Functions, recorded with what they were given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from gradscope.observe import private
from gradscope.observe.capture import Capture
from gradscope.observe.experiment.functions import Exchanged, separate_context
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


class FunctionCapture(Exchanged):
    """Records calls of custom Functions while it is entered.

    Attributes:
        calls: in the order in which they began.
    """

    def __init__(self, modules: Capture | None = None) -> None:
        """``modules``: a capture that is entered around this one and knows which module runs."""
        super().__init__()
        self.calls: list[FunctionCall] = []
        self._modules = modules
        self._inside = 0

    def exchange(self, cls: type[Function]) -> None:
        """Note each call of ``cls``."""
        self.put(cls, "forward", self._seen(cls, cls.forward))

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


class BackwardUnder(Exchanged):
    """Runs the backward of custom Functions under a mode: the engine does not carry modes there."""

    def __init__(self, mode: Callable[[], AbstractContextManager[Any]]) -> None:
        """``mode``: makes the context in which each backward runs."""
        super().__init__()
        self._mode = mode

    def exchange(self, cls: type[Function]) -> None:
        """Run the backward of ``cls`` under the mode."""
        self.put(cls, "backward", self._within(cls.backward))

    def _within(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any) -> Any:
            with self._mode():
                return backward(*args)

        return within


def _copied(thing: Any) -> Any:
    if isinstance(thing, nn.Parameter):
        return thing
    return mapped(thing, kept)
