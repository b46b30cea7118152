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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradscope.observe import private
from gradscope.observe.listener import Listener

_log = logging.getLogger("gradscope")
_Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
_Pick = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]
"""The arguments of a call that a listener is given."""

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


@contextlib.contextmanager
def unnoticed(call: str = "autograd_grad") -> Iterator[None]:
    """Inside, nobody is told of a ``call`` that this thread makes: it is gradscope's own."""
    before = getattr(_inside, call, False)
    setattr(_inside, call, True)
    try:
        yield
    finally:
        setattr(_inside, call, before)


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
        register_optimizer_step_pre_hook(_step_begin),
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
        *_clip_patches(),
        _Patch(clip, "clip_grad_value_", _clip_value),
        _Patch(torch.nn.utils, "clip_grad_value_", _clip_value),
        _Patch(scaler, "scale", _scale),
        _Patch(scaler, "unscale_", _unscale),
        _Patch(scaler, "step", _scaler_step),
        _Patch(torch.utils, "swap_tensors", _around("swap", lambda a, k: ((*a, *k.values()),))),
        _Patch(BaseProcess, "start", _before("process_start", _first_argument)),
        _Patch(torch, "save", _around("save", lambda a, k: ())),
        _Patch(torch.jit, "script", _around("script", _first_argument)),
        _Patch(torch, "compile", _compile),
        _Patch(torch.nn.Module, "compile", _compile),
        _Patch(torch.optim.Optimizer, "zero_grad", _before("zero_grad", _first_argument)),
        _Patch(torch.nn.Module, "zero_grad", _before("zero_grad", _first_argument)),
    )


def _clip_patches() -> tuple[_Patch, ...]:
    """Where ``clip_grad_norm_`` knows the total norm and has not scaled yet, or itself."""
    clip = torch.nn.utils.clip_grad
    if private.CLIP_WITH_NORM in clip.__dict__:
        return (_Patch(clip, private.CLIP_WITH_NORM, _clip),)
    return (
        _Patch(clip, "clip_grad_norm_", _clip_norm),
        _Patch(torch.nn.utils, "clip_grad_norm_", _clip_norm),
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


def _clip_value(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def clip_grad_value_(parameters: Any, clip_value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # a generator must serve the listener and the original
        _tell("clip_value", parameters, float(clip_value))
        try:
            return original(parameters, clip_value, *args, **kwargs)
        finally:
            _tell("clip_end")

    return clip_grad_value_


def _compile(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def compile(*args: Any, **kwargs: Any) -> Any:
        (target,) = _first_argument(args, kwargs)
        _tell("compiling", target)
        result = original(*args, **kwargs)
        _tell("compiled", target, result)
        return result

    return compile


def _backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = _served_twice(tensors)
        with _outermost("backward", _tensors(tensors)):
            return original(tensors, *args, **kwargs)

    return backward


def _grad(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs, inputs = _served_twice(outputs), _served_twice(inputs)
        made: list[Any] = []
        asked = _tensors(inputs)
        with _outermost("autograd_grad", _tensors(outputs), asked, ends=(asked, made)):
            result = original(outputs, inputs, *args, **kwargs)
            if len(asked) == len(result):
                made.extend(result)
            return result

    return grad


def _served_twice(several: Any) -> Any:
    """A generator must serve the listeners and the original."""
    single = isinstance(several, (torch.Tensor, torch.autograd.graph.GradientEdge))
    return several if single else tuple(several)


def _tensors(several: Any) -> tuple[torch.Tensor, ...]:
    those = several if isinstance(several, tuple) else (several,)
    return tuple(thing for thing in those if isinstance(thing, torch.Tensor))


@contextlib.contextmanager
def _outermost(call: str, *arguments: Any, ends: tuple[Any, ...] = ()) -> Iterator[None]:
    """Tell of the outermost ``call``: reentrant checkpointing calls backward within backward."""
    # the thread of a device that evaluates a graph is not the one that called backward
    inside = getattr(_inside, call, False) or private.current_graph_task_id() != -1
    if inside or torch.compiler.is_compiling():
        yield
        return
    _tell(f"{call}_begin", *arguments)
    try:
        with unnoticed(call):
            yield
    finally:
        _tell(f"{call}_end", *ends)


def _clip(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def clip(parameters: Any, max_norm: Any, total_norm: torch.Tensor, *a: Any, **k: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # a generator must serve the listener and the original
        _tell("clip", parameters, float(max_norm), total_norm)
        try:
            return original(parameters, max_norm, total_norm, *a, **k)
        finally:
            _tell("clip_end")

    return clip


def _clip_norm(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of ``_clip`` where torch has no function between the norm and the scaling."""

    @functools.wraps(original)
    def clip_grad_norm_(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)
        total_norm = original(parameters, max_norm, *args, **kwargs)
        _tell("clip", parameters, float(max_norm), total_norm)
        _tell("clip_end")
        return total_norm

    return clip_grad_norm_


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
    """It skips by not calling ``optimizer.step``: no hook of the optimizer fires."""

    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        called = [not isinstance(optimizer, torch.optim.Optimizer)]
        before = getattr(_inside, "scaler", None)
        _inside.scaler = optimizer, called
        try:
            result = original(self, optimizer, *args, **kwargs)
        finally:
            _inside.scaler = before
        _tell("scaler_step", optimizer, called[0])
        return result

    return step


def _step_begin(optimizer: Any, args: Any, kwargs: Any) -> Any:
    scaler = getattr(_inside, "scaler", None)
    if scaler is not None and scaler[0] is optimizer:
        scaler[1][0] = True
    return _tell("step_begin", optimizer, args, kwargs)
