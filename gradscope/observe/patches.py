"""The one table of patched functions, installed with the first listener, removed with the last.

Each patched function keeps its behaviour: a listener is told before and after, and a listener that
fails is taken off the list and logged, never raised into the user's training. When another library
has patched on top of ours, ours stays below it as a plain pass-through.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradscope.observe import private

_log = logging.getLogger("gradscope")
_Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
_Pick = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]
"""The arguments of a call that a listener is given."""


class Listener(Protocol):
    """What an observer is told. Every method returns None except ``step_begin``."""

    def backward_begin(self, tensors: Sequence[torch.Tensor]) -> None:
        """Outermost ``torch.autograd.backward`` is about to run on ``tensors``."""

    def backward_end(self) -> None:
        """It has returned or raised."""

    def autograd_grad_begin(self) -> None:
        """Outermost ``torch.autograd.grad`` is about to run."""

    def autograd_grad_end(self) -> None:
        """It has returned or raised."""

    def swap_begin(self, tensors: Sequence[torch.Tensor]) -> None:
        """``swap_tensors`` is about to run, and refuses tensors that are held weakly."""

    def swap_end(self) -> None:
        """It has returned or raised."""

    def script_begin(self, target: Any) -> None:
        """``torch.jit.script`` is about to run, and refuses a module with hooks."""

    def script_end(self) -> None:
        """It has returned or raised."""

    def clip(self, parameters: Any, max_norm: float, total_norm: torch.Tensor) -> None:
        """``clip_grad_norm_`` has computed the total norm and is about to scale."""

    def clip_value(self, parameters: Any, limit: float) -> None:
        """``clip_grad_value_`` is about to clamp."""

    def scaled(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` has returned ``scaled``."""

    def unscaled(self, scaler: Any, optimizer: Any) -> None:
        """``GradScaler.unscale_`` has run on an optimizer's gradients."""

    def scaler_step(self, optimizer: Any, stepped: bool) -> None:
        """``GradScaler.step`` has run; ``stepped`` is False when it skipped the optimizer."""

    def compiling(self, target: Any) -> None:
        """``torch.compile`` is about to take a module or a function (None: as a decorator)."""

    def zero_grad(self, owner: Any) -> None:
        """``zero_grad`` of an optimizer or a module is about to run."""

    def step_begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """``optimizer.step`` is about to run; may return replaced arguments (a wrapped closure)."""

    def step_end(self, optimizer: Any) -> None:
        """``optimizer.step`` has returned."""


_lock = threading.RLock()
_listeners: list[Listener] = []
_restorers: list[Callable[[], None]] = []
_inside = threading.local()


def add(listener: Listener) -> None:
    """Tell ``listener`` from now on; adding it twice is the same as once."""
    with _lock:
        if listener not in _listeners:
            _listeners.append(listener)
        if not _restorers:
            _install()


def remove(listener: Listener) -> None:
    """Tell it no more; the last one to go restores every patched function."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if not _listeners:
            while _restorers:
                _restorers.pop()()


def _tell(method: str, *args: Any) -> Any:
    """Call ``method`` of every listener; the last result that is not None.

    Nothing is told while torch.compile traces the caller: it would become part of the code, or
    break the graph.
    """
    if torch.compiler.is_compiling():
        return None
    result = None
    for listener in tuple(_listeners):
        try:
            answer = getattr(listener, method)(*args)
        except Exception:
            _log.exception("gradscope stops observing: %s failed", method)
            remove(listener)
        else:
            result = answer if answer is not None else result
    return result


@dataclass(frozen=True, slots=True)
class _Patch:
    """One row of the table: where the function hangs and what stands in its place."""

    holder: Any
    name: str
    wrap: _Wrap


def _install() -> None:
    for patch in _table():
        original = patch.holder.__dict__.get(patch.name)
        if original is None:
            continue
        replacement = patch.wrap(original)
        setattr(patch.holder, patch.name, replacement)
        _restorers.append(functools.partial(_restore, patch, original, replacement))
    hooks = (
        register_optimizer_step_pre_hook(lambda o, a, k: _tell("step_begin", o, a, k)),
        register_optimizer_step_post_hook(lambda o, _a, _k: _tell("step_end", o)),
    )
    _restorers.extend(hook.remove for hook in hooks)


def _restore(patch: _Patch, original: Any, replacement: Any) -> None:
    if patch.holder.__dict__.get(patch.name) is replacement:
        setattr(patch.holder, patch.name, original)


def _table() -> tuple[_Patch, ...]:
    clip = torch.nn.utils.clip_grad
    scaler = torch.amp.grad_scaler.GradScaler
    return (
        _Patch(torch.autograd, "backward", _backward),
        _Patch(torch.autograd, "grad", _grad),
        _Patch(clip, "_clip_grads_with_norm_", _clip),
        _Patch(clip, "clip_grad_value_", _before("clip_value", _clip_value_arguments)),
        _Patch(torch.nn.utils, "clip_grad_value_", _before("clip_value", _clip_value_arguments)),
        _Patch(scaler, "scale", _scale),
        _Patch(scaler, "unscale_", _unscale),
        _Patch(scaler, "_maybe_opt_step", _scaler_step),
        _Patch(torch.utils, "swap_tensors", _around("swap", lambda a, k: ((*a, *k.values()),))),
        _Patch(torch.jit, "script", _around("script", _first_argument)),
        _Patch(torch, "compile", _before("compiling", _first_argument)),
        _Patch(torch.nn.Module, "compile", _before("compiling", _first_argument)),
        _Patch(torch.optim.Optimizer, "zero_grad", _before("zero_grad", _first_argument)),
        _Patch(torch.nn.Module, "zero_grad", _before("zero_grad", _first_argument)),
    )


def _before(method: str, pick: _Pick) -> _Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            _tell(method, *pick(args, kwargs))
            return original(*args, **kwargs)

        return patched

    return wrap


def _around(call: str, pick: _Pick) -> _Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            _tell(f"{call}_begin", *pick(args, kwargs))
            try:
                return original(*args, **kwargs)
            finally:
                _tell(f"{call}_end")

        return patched

    return wrap


def _first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (args[0] if args else kwargs.get("model"),)


def _clip_value_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    named = dict(zip(("parameters", "clip_value"), args, strict=False)) | kwargs
    return named["parameters"], float(named["clip_value"])


def _backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensors, (torch.Tensor, torch.autograd.graph.GradientEdge)):
            tensors = tuple(tensors)  # a generator must serve the listeners and the original
        several = tensors if isinstance(tensors, tuple) else (tensors,)
        with _outermost("backward", tuple(t for t in several if isinstance(t, torch.Tensor))):
            return original(tensors, *args, **kwargs)

    return backward


def _grad(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def grad(*args: Any, **kwargs: Any) -> Any:
        with _outermost("autograd_grad"):
            return original(*args, **kwargs)

    return grad


@contextlib.contextmanager
def _outermost(call: str, *arguments: Any) -> Iterator[None]:
    """Tell of the outermost ``call``: reentrant checkpointing calls backward within backward."""
    # the thread of a device that evaluates a graph is not the one that called backward
    inside = getattr(_inside, call, False) or private.current_graph_task_id() != -1
    if inside or torch.compiler.is_compiling():
        yield
        return
    _tell(f"{call}_begin", *arguments)
    setattr(_inside, call, True)
    try:
        yield
    finally:
        setattr(_inside, call, False)
        _tell(f"{call}_end")


def _clip(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def clip(parameters: Any, max_norm: Any, total_norm: torch.Tensor, *a: Any, **k: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # a generator must serve the listener and the original
        _tell("clip", parameters, float(max_norm), total_norm)
        return original(parameters, max_norm, total_norm, *a, **k)

    return clip


def _scale(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        _tell("scaled", outputs, scaled)
        return scaled

    return scale


def _unscale(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def unscale_(self: Any, optimizer: Any) -> Any:
        result = original(self, optimizer)
        _tell("unscaled", self, optimizer)
        return result

    return unscale_


def _scaler_step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _maybe_opt_step(self: Any, optimizer: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        # the scaler itself reads these flags right here, so reading them adds no new wait
        stepped = not sum(flag.item() for flag in state["found_inf_per_device"].values())
        result = original(self, optimizer, state, *args, **kwargs)
        _tell("scaler_step", optimizer, stepped)
        return result

    return _maybe_opt_step
