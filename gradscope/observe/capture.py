"""What every module of a model is given and gives in one whole forward and backward pass.

``Capture`` is entered around the pass. It records, for each call of each module below a root, the
arguments as they were before the call (strides kept), the result, the gradients that arrive at the
result and at the arguments, and the state of the model at the entry. Nothing of the pass changes.

A module whose ``forward`` is called directly, without ``__call__``, is recorded as well. Modules
of TorchScript take no hooks and are not seen.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.experiment.frozen import Frozen
from gradscope.observe.naming import Registry
from gradscope.observe.reading.nested import differentiable, kept, mapped, tensors


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        module, name: the module and its qualified name, "" for the root.
        index: how manyeth call of this module it is, from 0.
        depth: modules that were running when it began.
        parent: the call inside which it happened, None at the top.
        args, kwargs: copies of what it was given; parameters of the model stand as themselves.
        wanted: paths of those tensors in ``(args, kwargs)`` that required grad.
        output: a copy of what it gave.
        output_wanted: paths of those tensors in ``output`` that required grad.
        output_grads: gradients at tensors of the output, by path; filled in by the backward pass.
            With a later in-place change they are those of the value before it.
        input_grads: gradients at tensors of ``(args, kwargs)``, by path, summed over everything
            that uses the tensor, not only this module.
        grad_enabled: whether a graph was being recorded at the entry.
        recomputed: it happened during the backward pass (checkpointing).
        direct: ``module.forward`` was called, not the module itself: its hooks did not run.
        children: modules that were called inside, each once.
        state: the state at the entry, if states are kept.
        seconds: time it took, with everything inside.
    """

    module: nn.Module
    name: str
    index: int
    depth: int
    parent: Call | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wanted: frozenset[str]
    grad_enabled: bool
    recomputed: bool
    direct: bool
    output: Any = None
    output_wanted: frozenset[str] = frozenset()
    output_grads: dict[str, Tensor] = field(default_factory=dict)
    input_grads: dict[str, Tensor] = field(default_factory=dict)
    children: dict[nn.Module, None] = field(default_factory=dict)
    state: Frozen | None = None
    seconds: float = 0.0
    finished: bool = False


class Capture:
    """Records the calls of modules while it is entered.

    Attributes:
        calls: what was recorded, in the order in which the calls ended: children before parents.
        counts: calls of each module, by name, also those that were not kept.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        *,
        keep: int | None = None,
        state: Frozen | None = None,
        gradients: bool = True,
        copies: bool = True,
    ) -> None:
        """Make a capture; nothing is touched before it is entered.

        Args:
            names: the modules to record, with their qualified names.
            keep: calls of each module to keep: the first ones and the last; None for all.
            state: what may move; its state at each entry is kept.
            gradients: whether to record gradients at inputs and outputs.
            copies: whether to copy arguments and results; without, only the tree of calls,
                ``wanted`` and the times are recorded.
        """
        self.calls: list[Call] = []
        self.counts: dict[str, int] = {}
        self.stack: list[Call] = []
        self._names = dict(names)
        self._keep, self._state = keep, state
        self._gradients, self._copies = gradients, copies
        self._parameters = {id(p) for m in self._names for p in m._parameters.values()}
        self._handles: list[Any] = []
        self._patched: list[tuple[nn.Module, Any]] = []
        self._grad_handles: list[Any] = []

    def __enter__(self) -> Capture:
        for module in self._names:
            if isinstance(module, torch.jit.ScriptModule):
                continue
            self._handles += [
                module.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True),
                module.register_forward_hook(self._after, with_kwargs=True, always_call=True),
            ]
            self._patch(module)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in (*self._handles, *self._grad_handles):
            handle.remove()
        for module, own in self._patched:
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own
        self._handles, self._patched, self._grad_handles = [], [], []
        self.stack = []

    def of(self, name: str) -> list[Call]:
        """The recorded calls of the module with this name."""
        return [call for call in self.calls if call.name == name]

    @property
    def current(self) -> Call | None:
        """The innermost call that is running now."""
        return self.stack[-1] if self.stack else None

    # ------------------------------------------------------------------ hooks

    def _patch(self, module: nn.Module) -> None:
        """See calls of ``forward`` itself, too."""
        own, forward = vars(module).get("forward"), module.forward

        @functools.wraps(forward)
        def seen(*args: Any, **kwargs: Any) -> Any:
            top = self.current
            if top is not None and top.module is module and not top.direct and not top.finished:
                return forward(*args, **kwargs)
            self._begin(module, args, kwargs, direct=True)
            output = None
            try:
                output = forward(*args, **kwargs)
            finally:
                self._end(module, output)
            return output

        vars(module)["forward"] = seen
        self._patched.append((module, own))

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._begin(module, args, kwargs, direct=False)

    def _after(
        self, module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any
    ) -> None:
        self._end(module, output)

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, direct: bool
    ) -> None:
        name = self._names[module]
        parent = self.current
        if parent is not None:
            parent.children[module] = None
        given = (args, kwargs)
        wanted = frozenset(path for path, tensor in tensors(given) if tensor.requires_grad)
        index = self.counts.get(name, 0)
        self.counts[name] = index + 1
        copied = mapped(given, self._copier()) if self._copies else ((), {})
        call = Call(
            module, name, index, len(self.stack), parent, copied[0], dict(copied[1]), wanted,
            torch.is_grad_enabled(), private.current_graph_task_id() != -1, direct,
            state=self._state.again() if self._state is not None else None,
        )  # fmt: skip
        if self._gradients:
            self._watch(given, call.input_grads)
        self.stack.append(call)
        call.seconds = time.perf_counter()

    def _end(self, module: nn.Module, output: Any) -> None:
        # calls that were left by an exception below this one (checkpointing stops early) go, too
        while self.stack:
            call = self.stack.pop()
            if call.module is module:
                break
        else:
            return
        call.seconds = time.perf_counter() - call.seconds
        call.finished = True
        if output is None:
            return
        call.output_wanted = frozenset(p for p, t in tensors(output) if t.requires_grad)
        if self._copies:
            call.output = mapped(output, self._copier())
        if self._gradients:
            self._watch(output, call.output_grads)
        self._add(call)

    def _add(self, call: Call) -> None:
        if self._keep is not None:
            same = [i for i, other in enumerate(self.calls) if other.name == call.name]
            if len(same) >= self._keep:
                del self.calls[same[-1]]
        self.calls.append(call)

    def _copier(self) -> Callable[[Tensor], Tensor]:
        """Copies tensors, one that is given twice only once; parameters stay themselves."""
        made: dict[int, Tensor] = {}

        def copied(tensor: Tensor) -> Tensor:
            if id(tensor) in self._parameters:
                return tensor
            if id(tensor) not in made:
                made[id(tensor)] = kept(tensor)
            return made[id(tensor)]

        return copied

    def _watch(self, thing: Any, into: dict[str, Tensor]) -> None:
        for path, tensor in tensors(thing):
            if tensor.requires_grad and differentiable(tensor):

                def note(gradient: Tensor, path: str = path) -> None:
                    into[path] = gradient.detach().clone()

                self._grad_handles.append(tensor.register_hook(note))


def named(root: nn.Module) -> dict[nn.Module, str]:
    """Every module below ``root`` with its qualified name, "" for the root itself.

    Shared modules have their first name; those in plain lists and dicts the path of the attribute.
    """
    registry = Registry([root])
    places = registry.walk().modules
    return {registry.modules.thing(identity): place.path for identity, place in places.items()}
