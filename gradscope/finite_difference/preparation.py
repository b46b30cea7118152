"""From a model and a way to run it to the calls of its modules, in the widest format that runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.finite_difference.directions import cotangents
from gradscope.finite_difference.sampling import differ
from gradscope.finite_difference.unit import input_leaf
from gradscope.observe.capture import Call, Capture, named
from gradscope.observe.experiment.duplicate import (
    below,
    duplicate,
    hold_still,
    own_parameters,
    widen,
)
from gradscope.observe.experiment.frozen import Frozen
from gradscope.observe.experiment.function_capture import FunctionCapture
from gradscope.observe.experiment.probes import Widened, wide
from gradscope.observe.reading.nested import differentiable, kept, tensors

Change = Callable[[Tensor], Tensor]
Drive = Callable[[nn.Module, Change], Any]
"""Runs a model once: given the model and what is to be done to each tensor of the user's."""


class CannotRunError(Exception):
    """The model does not run at all; ``cause`` is what it raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class Prepared:
    """A model ready to be checked.

    Attributes:
        model: the copy.
        names: qualified name of each of its modules.
        calls: what was recorded, children before parents.
        asked: paths of inputs that required grad in the user's own pass, by name and call.
        state: what moves, as it was before the recorded pass.
        epsilon: relative rounding of the format.
        widened: everything runs under ``Widened``.
        output: what the recorded pass gave.
        notes: sentences for the user.
        with_functions: modules whose own code calls a custom Function.
    """

    model: nn.Module
    names: dict[nn.Module, str]
    state: Frozen
    epsilon: float
    widened: bool
    calls: list[Call] = field(default_factory=list)
    asked: dict[tuple[str, int, bool], frozenset[str]] = field(default_factory=dict)
    output: Any = None
    notes: list[str] = field(default_factory=list)
    with_functions: set[nn.Module] = field(default_factory=set)


def prepare(root: nn.Module, drive: Drive, things: Iterable[Any], seed: int, keep: int) -> Prepared:
    """Copy the model, run it, and record the calls of its modules.

    Args:
        root: the user's model; it is not touched.
        drive: runs it.
        things: objects of the user's beside the model that may have a state (a loss).
        seed: of the gradient that is sent back through a model with checkpointing.
        keep: calls of each module to keep.

    Raises:
        CannotRunError: the model fails in its own format, too.
    """
    things = list(things)
    if isinstance(root, torch.jit.ScriptModule):
        root = Held(root)
    ready = _running(root, drive)
    state = Frozen(below(ready.model), things)
    plain = Capture(ready.names, keep=keep, copies=False, gradients=False)
    functions = FunctionCapture(plain)
    with modes(ready), plain, functions:
        drive(ready.model, change_of(ready))
    ready.with_functions = {c.module for c in functions.calls if c.module is not None}
    state.narrow()
    ready.state = state
    ready.asked = {(c.name, c.index, c.recomputed): c.wanted for c in plain.calls}
    state.restore()
    flag = not any(t.requires_grad for t in _given(drive))
    with modes(ready), Capture(ready.names, keep=keep, state=state, gradients=False) as capture:
        ready.output = drive(ready.model, _entering(ready, flag=flag))
        if any(not call.grad_enabled for call in capture.calls):
            _backward(ready, seed)
    ready.calls = capture.calls
    return ready


@contextlib.contextmanager
def modes(ready: Prepared) -> Iterator[None]:
    """The format in which ``ready`` runs, with a graph being recorded."""
    default = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if ready.epsilon < 1e-12:
            torch.set_default_dtype(torch.float64)
            stack.callback(torch.set_default_dtype, default)
        if ready.widened:
            stack.enter_context(Widened())
        stack.enter_context(torch.enable_grad())
        yield


def _running(root: nn.Module, drive: Drive) -> Prepared:
    """The copy in the widest format in which a forward pass succeeds, warmed up."""
    failure: Exception | None = None
    for widened in (False, True):
        model = duplicate(root)
        hold_still(model)
        widen(model)
        ready = Prepared(model, {}, Frozen(), 2.0**-52, widened)
        try:
            with modes(ready):
                output = drive(model, change_of(ready))
        except Exception as error:
            failure = failure or error
            continue
        if not widened and (_narrow_inside(output) or _rounded_inside(ready, drive, output)):
            continue
        ready.names = _names(model)
        if failure is not None or widened:
            ready.notes.append(
                "It asks for a smaller format inside: that was taken as double precision."
            )
        return ready
    model = duplicate(root)
    hold_still(model)
    ready = Prepared(model, {}, Frozen(), _epsilon(model), False)
    try:
        drive(model, change_of(ready))
    except Exception as error:
        raise CannotRunError(error) from error
    ready.names = _names(model)
    text = str(failure).strip().splitlines()
    ready.notes.append(
        "It does not run in double precision "
        f"({type(failure).__name__}: {text[0] if text else ''}): it was checked in its own format, "
        "in which only faults of about one hundredth are seen."
    )
    return ready


class Held(nn.Module):
    """Holds a root that takes no hooks (TorchScript), so that its call can be seen."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The held module's result."""
        return self.held(*args, **kwargs)


def _names(model: nn.Module) -> dict[nn.Module, str]:
    names = named(model)
    if isinstance(model, Held):
        return {m: name.removeprefix("held").removeprefix(".") for m, name in names.items()}
    return names


def _narrow_inside(output: Any) -> bool:
    """Whether a result came out in a smaller format although everything given was double."""
    return any(differentiable(t) and wide(t.dtype) != t.dtype for _, t in tensors(output))


def _rounded_inside(ready: Prepared, drive: Drive, output: Any) -> bool:
    """Whether the results are other ones when nothing is computed in a smaller format."""
    state = Frozen(below(ready.model))
    results = []
    for widened in (False, True):
        state.restore()
        ready.widened = widened
        try:
            with modes(ready):
                results.append(
                    [t.detach() for _, t in tensors(drive(ready.model, change_of(ready)))
                     if differentiable(t)]
                )  # fmt: skip
        except Exception:  # the plain run succeeded, so it is the mode that fails
            return False
        finally:
            ready.widened = False
    state.restore()
    plain, wide_ones = results
    return len(plain) == len(wide_ones) and 1e-12 < differ(plain, wide_ones, 0.0) < math.inf


def _epsilon(model: nn.Module) -> float:
    found = [torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()]
    return max(found, default=2.0**-23)


def change_of(ready: Prepared) -> Change:
    """Copies of the user's tensors in the format that is used; who wanted a gradient still does."""

    def change(tensor: Tensor) -> Tensor:
        new = kept(tensor)
        if ready.epsilon < 1e-12 and wide(new.dtype) != new.dtype:
            strides = new.stride()
            new = new.to(wide(new.dtype))
            if new.stride() != strides:
                new = _strided_like(tensor, new)
        if tensor.requires_grad and differentiable(new):
            return _entered(new)
        return new

    return change


def _strided_like(tensor: Tensor, new: Tensor) -> Tensor:
    """``new`` with the strides of ``tensor``, which a conversion has lost."""
    count = 1 + sum((s - 1) * st for s, st in zip(tensor.shape, tensor.stride(), strict=True))
    source = torch.zeros(max(count, 0), dtype=new.dtype, device=new.device)
    view = source.as_strided(tensor.shape, tensor.stride())
    index = torch.arange(source.numel(), device=new.device).as_strided(
        tensor.shape, tensor.stride()
    )
    source[index.reshape(-1)] = new.reshape(-1)
    return view


def _entering(ready: Prepared, *, flag: bool) -> Change:
    plain = change_of(ready)

    def change(tensor: Tensor) -> Tensor:
        new = plain(tensor)
        if flag and not new.requires_grad and differentiable(new) and new.numel():
            return _entered(new)
        return new

    return change


def _entered(tensor: Tensor) -> Tensor:
    """A tensor that requires grad but is no leaf, so that it may be changed in place."""
    leaf = input_leaf("", tensor)
    new = leaf.base.requires_grad_(True).clone(memory_format=torch.preserve_format)
    if leaf.shape is not None and leaf.stride is not None:
        return new.as_strided(leaf.shape, leaf.stride)
    return new


def _given(drive: Drive) -> list[Tensor]:
    """The user's own tensors, as ``drive`` meets them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with contextlib.suppress(Exception):
        drive(_Nothing(), note)
    return found


class _Nothing(nn.Module):
    """Stands for the model where only what it is given is of interest."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError


def _backward(ready: Prepared, seed: int) -> None:
    """Send a gradient back: what was checkpointed runs again, with a graph this time."""
    results = [t for _, t in tensors(ready.output) if t.requires_grad and differentiable(t)]
    if not results:
        return
    weights = cotangents([r.detach() for r in results], torch.Generator().manual_seed(seed))
    with contextlib.suppress(Exception):  # a backward that fails fails again where it is checked
        torch.autograd.backward(results, weights)
    for module in below(ready.model):
        for _, parameter in own_parameters(module):
            parameter.grad = None
