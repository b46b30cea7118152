"""Origin of the first NaN or Inf of a step.

``first_bad_input`` and ``bad_parameters`` look at what a step begins with, ``origin_in_graph`` at
what the graph of a loss has saved, and ``replay`` runs the forward and backward again and watches
each operation.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.birth.births import BirthWatch, CollectiveError, Origin
from gradscope.observe.birth.finite import Batch, bad_samples, state_of
from gradscope.observe.birth.graph_origin import origin_in_graph
from gradscope.observe.birth.operands import described
from gradscope.observe.birth.python_state import attributes_kept
from gradscope.observe.birth.snapshot import (
    RandomState,
    Snapshot,
    fresh_statistics,
    restored,
    take_snapshot,
    without_graph,
)
from gradscope.observe.birth.steps_kept import optimizers_kept
from gradscope.observe.frames import Site
from gradscope.observe.private_modules import tree_map
from gradscope.observe.reading.containers import tensors_in
from gradscope.observe.reading.samples import plain

__all__ = [
    "Origin",
    "Snapshot",
    "bad_parameters",
    "first_bad_input",
    "origin_in_graph",
    "replay",
    "replay_step",
    "take_snapshot",
]


@torch.no_grad()
def first_bad_input(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    batch: Batch | int | None = None,
    site: Site | None = None,
) -> Origin | None:
    """Origin in the data.

    Args:
        args: positional arguments of the root.
        kwargs: keyword arguments of the root.
        batch: how samples lie, or their number; None: axis 0 of the first tensor.
        site: the user's line that calls the root.

    Returns:
        For the first tensor that holds NaN or +Inf, with the samples that hold it; None where
        there is none. A tensor whose only infinities are -inf is a mask.
    """
    tensors = tensors_in((args, dict(kwargs or {})))
    size = batch or next((t.shape[0] for t in tensors if t.dim()), None)
    for tensor in tensors:
        state = state_of(tensor)
        if not state or (state == 1 and not bool((tensor == math.inf).any())):
            continue
        kind = "NaN" if state == 2 else "Inf"
        reason = f"the input holds {kind} before any operation"
        seen = tuple(described((), tensor))
        return Origin(None, "input", None, site, bad_samples(tensor, size), reason, operands=seen)
    return None


@torch.no_grad()
def bad_parameters(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Parameters that hold a NaN or Inf, in order; one synchronisation in all if there is none."""
    real = [t for t in parameters if not t.is_meta and (p := plain(t)) is not None and p.numel()]
    if not real:
        return []
    largest = [torch.linalg.vector_norm(plain(t), math.inf) for t in real]
    device = largest[0].device
    if bool(torch.stack([torch.isfinite(norm).to(device) for norm in largest]).all()):
        return []
    return [t for t in real if state_of(t)]


def replay(
    root: nn.Module,
    snapshot: Snapshot,
    *,
    loss_fn: Callable[[Any], Any] | None = None,
    output_gradients: Sequence[Tensor | None] | None = None,
    forward_only: bool = False,
) -> Origin:
    """Run a forward and backward again and find the origin of what is not finite.

    Call it before the parameters change, with gradscope's own hooks off. Generators, buffers,
    training flags, ``.grad`` and the modules' plain attributes (a counter, a cache) are afterwards
    as before; nothing that the replay made is kept. Hooks of the user's run once more. Compiled
    code runs eagerly.

    Args:
        root: the module that was called.
        snapshot: taken before that call.
        loss_fn: gives the loss from the root's output; None where it is not known.
        output_gradients: without ``loss_fn``: gradient that came back to each tensor of the output
            that requires grad, in order. Without both a gradient of ones stands in.
        forward_only: leave out the backward.

    Returns:
        The origin; one with ``phase`` None and a reason where nothing that is not finite was
        reproduced or the replay failed.
    """
    if snapshot.changed():
        return Origin.unknown("the inputs were changed in place after the forward")
    watch = BirthWatch(
        batch=snapshot.batch(), fallback=snapshot.site, boundary=__file__, alone=True
    )
    with (
        _quiet(),
        attributes_kept(snapshot.modules),
        restored(snapshot),
        private.eagerly(),
        torch.enable_grad(),
    ):
        args, kwargs = tree_map(without_graph, (snapshot.args, snapshot.kwargs))
        with torch.no_grad():
            watch.declare(tensors_in((args, kwargs)), "input", mask=True)
            _declare(watch, root)
        try:
            return _replayed(
                root, args, kwargs, watch, loss_fn, output_gradients, forward_only=forward_only
            )
        except CollectiveError:
            return Origin.unknown(
                "the forward exchanges data with other ranks, which do not run it again"
            )
        except Exception as error:  # the user's code, in a situation that it was not written for
            return Origin.unknown(f"the replay failed: {type(error).__name__}: {error}")


def replay_step(
    step_fn: Callable[[], Any],
    *,
    root: nn.Module | None = None,
    batch: Batch | int | None = None,
    site: Site | None = None,
    optimizers: Sequence[Any] = (),
    modules: Sequence[nn.Module] = (),
) -> Origin:
    """Run any step of a training under the watch and find the origin of what is not finite.

    Args:
        step_fn: runs the step: forward, loss, backward, an update if it likes. What it returns
            (the loss) is looked at first.
        root: its parameters and their gradients are looked at next. Its parameters, buffers,
            training flags, plain attributes and gradients, and all generators, are afterwards as
            before.
        batch: how samples lie in a batch, or their number.
        site: line to report where no line of the user's is known.
        optimizers: their state and settings are afterwards as before.
        modules: further roots that are treated like ``root``.

    Returns:
        The origin, with ``phase`` None where everything stayed finite.

    Raises:
        Exception: what ``step_fn`` raises.
    """
    watch = BirthWatch(batch=batch, fallback=site, boundary=__file__)
    roots = [*([root] if root is not None else []), *modules]
    with _quiet(), _unchanged(roots), optimizers_kept(optimizers), private.eagerly():
        for each in roots:
            with torch.no_grad():
                _declare(watch, each)
        with watch:
            result = step_fn()
        results = tensors_in(result)
        for each in roots:
            results += [p.grad for p in each.parameters() if p.grad is not None]
            results += list(each.parameters())
        with torch.no_grad():
            return watch.origin_of(results) or Origin.unknown("everything stayed finite")


def _replayed(
    root: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    watch: BirthWatch,
    loss_fn: Callable[[Any], Any] | None,
    output_gradients: Sequence[Tensor | None] | None,
    *,
    forward_only: bool,
) -> Origin:
    with watch:
        output = root(*args, **kwargs)
        loss = None if loss_fn is None else loss_fn(output)
    heads = tensors_in(output) if loss is None else tensors_in(loss)
    with torch.no_grad():
        origin = watch.origin_of(heads)
    if origin is not None:
        return origin
    if forward_only:
        return Origin.unknown("the outputs of the model are finite when it is replayed")
    heads = [head for head in heads if head.requires_grad]
    leaves = [p for p in root.parameters() if p.requires_grad]
    if not heads or not leaves:
        return Origin.unknown("the forward stayed finite and nothing requires grad")
    given = _gradients(heads, output_gradients if loss_fn is None else None)
    if any(state_of(g) for g in given):
        return Origin.unknown(
            "the outputs stayed finite and the gradient that came back to them was not: it was "
            "made outside the module, in the loss"
        )
    with watch:
        gradients = torch.autograd.grad(heads, leaves, given, allow_unused=True)
    with torch.no_grad():
        origin = watch.origin_of(g for g in gradients if g is not None)
    if origin is not None:
        return origin
    failed = f"; not every operation could be looked at ({watch.failure})" if watch.failure else ""
    return Origin.unknown(f"the replay stayed finite{failed}")


def _gradients(heads: list[Tensor], given: Sequence[Tensor | None] | None) -> list[Tensor]:
    if not given or len(given) != len(heads):
        return [torch.ones_like(head) for head in heads]
    return [
        torch.zeros_like(head) if gradient is None else gradient.to(head.dtype)
        for head, gradient in zip(heads, given, strict=True)
    ]


def _declare(watch: BirthWatch, root: nn.Module) -> None:
    for prefix, module in root.named_modules():
        path = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                watch.declare([parameter], "parameter", module=module, name=path + name)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                watch.declare([buffer], "parameter", module=module, name=path + name, mask=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the user's code, which it has given already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _unchanged(roots: Sequence[nn.Module]) -> Iterator[None]:
    random = RandomState.now()
    tensors = [t for root in roots for t in (*root.parameters(), *root.buffers())]
    modules = [module for root in roots for module in root.modules()]
    values = [(t, t.detach().clone(), t.grad) for t in tensors]
    gradients = [None if grad is None else grad.detach().clone() for _, _, grad in values]
    training = [(module, module.training) for module in modules]
    try:
        for module in modules:
            for name, statistic in fresh_statistics(module):
                module._buffers[name].data.copy_(statistic)  # type: ignore[union-attr]
        with private.versions_kept(tensors), attributes_kept(modules):
            yield
    finally:
        for (tensor, value, grad), copy in zip(values, gradients, strict=True):
            tensor.data.copy_(value)
            tensor.grad = grad
            if grad is not None and copy is not None:
                grad.data.copy_(copy)
        for module, flag in training:
            module.training = flag
        random.restore()
