"""Labels, verified without gradscope: plain central differences in float64 against autograd.

A faulty case: the named module alone, with what it is given, is wrong; every other innermost module
is right. A right case: the whole model is right in all of its inputs and parameters.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gradcheck.case import Case

STEP = 1e-6
DIRECTIONS = 3
RIGHT = 1e-5
"""Relative difference below which two derivatives are the same: ten times what rounding and
truncation leave at this step."""
SKIPPED = {
    "bfloat16 model": "its numbers have three digits",
    "scripted": "its code cannot be copied",
    "embedding with a largest norm": "the forward pass writes to its own weights",
    "spectral norm": "the forward pass writes to its own buffers",
    "spectral norm, old style": "the forward pass writes to its own buffers",
    "single precision inside": "it computes in single precision",
    "single precision throughout a module": "it computes in single precision",
    "counters and random numbers": "each call is another function",
}


def verified(case: Case) -> str:
    """``yes``, ``no: why``, or ``skipped: why``."""
    if case.name in SKIPPED:
        return f"skipped: {SKIPPED[case.name]}"
    try:
        return _faulty(case) if case.verdict == "wrong" else _whole(case)
    except Exception as error:
        return f"no: {type(error).__name__}: {error}"


def _whole(case: Case) -> str:
    module, args, kwargs = _double(case)
    error = worst(module, args, kwargs, shift=1e-2 if case.kinky else 0.0)
    if case.verdict == "right":
        return "yes" if error < RIGHT else f"no: a difference of {error:.1e}"
    return "yes" if error > RIGHT else "no: it is its own derivative"


def _faulty(case: Case) -> str:
    module, args, kwargs = _double(case)
    calls: dict[str, tuple[nn.Module, Any, Any]] = {}
    names = {m: n for n, m in module.named_modules()}
    handles = []
    for inner, name in names.items():

        def note(m: nn.Module, a: Any, k: Any, name: str = name) -> None:
            calls.setdefault(name, (m, _copied(a), _copied(k)))

        handles.append(inner.register_forward_pre_hook(note, with_kwargs=True))
    _seeded(module, args, kwargs)
    for handle in handles:
        handle.remove()
    culprit = case.culprit or ""
    if culprit not in calls:
        # called by its forward, or not registered: the whole is wrong, and no other part
        if not worst(module, args, kwargs) > RIGHT:
            return "no: the whole is right"
    else:
        found = worst(*calls[culprit])
        if not found > RIGHT:
            return f"no: {culprit!r} is right to {found:.1e}"
    for name, (inner, a, k) in calls.items():
        leaf = not list(inner.children())
        if leaf and name != culprit and not culprit.startswith(f"{name}."):
            found = worst(inner, a, k)
            if found > RIGHT:
                return f"no: {name!r} is off by {found:.1e}, too"
    return "yes"


def worst(module: nn.Module, args: Any, kwargs: Any, *, shift: float = 0.0) -> float:
    """Largest relative difference over inputs and parameters; infinite for NaN."""
    module = _duplicate(module)
    generator = torch.Generator().manual_seed(1)
    inputs = [t for t in _tensors((args, kwargs)) if _moves(t)]
    leaves: list[Tensor] = [t.detach().clone() for t in inputs]
    if shift:
        leaves = [
            t + shift * torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in leaves
        ]
        with torch.no_grad():
            for p in module.parameters():
                p.add_(shift * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    parameters = [p for p in module.parameters() if p.requires_grad]
    base = [p.detach().clone() for p in parameters]
    state = copy.deepcopy(module.state_dict())

    def outputs(values: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        module.load_state_dict(state)
        with torch.no_grad():
            for p, w in zip(parameters, weights, strict=True):
                p.copy_(w)
        made = iter(values)
        a, k = _replaced((args, kwargs), lambda t: next(made) if _moves(t) else t.clone())
        return [t for t in _tensors(_seeded(module, a, k)) if _moves(t)]

    tracked = [t.clone().requires_grad_() for t in leaves]
    results = outputs([t * 1 for t in tracked], base)
    carrying = [i for i, r in enumerate(results) if r.requires_grad] or list(range(len(results)))
    cotangents = [
        torch.where(
            torch.isfinite(results[i]),
            torch.randn(results[i].shape, generator=generator, dtype=results[i].dtype),
            0,
        )
        for i in carrying
    ]
    total: Any = sum(
        (results[i] * c.conj()).real.sum() if c.is_complex() else (results[i] * c).sum()
        for i, c in zip(carrying, cotangents, strict=True)
        if results[i].requires_grad
    )
    everything = [*tracked, *parameters]
    grads: list[Tensor | None] = [None] * len(everything)
    if isinstance(total, Tensor) and everything:
        for t in everything:
            t.grad = None
        total.backward()
        grads = [t.grad if t.grad is None else t.grad.to_dense() for t in everything]
    found = 0.0
    for position, (grad, start) in enumerate(zip(grads, [*leaves, *base], strict=True)):
        if (
            grad is None
            and position < len(inputs)
            and not inputs[position].requires_grad
            and any(g is not None for g in grads)
        ):
            continue
        if grad is not None and not bool(torch.isfinite(grad).all()):
            return float("inf")
        for _ in range(DIRECTIONS):
            size = float(start.abs()[torch.isfinite(start)].pow(2).mean().sqrt()) or 1.0
            move = torch.randn(start.shape, generator=generator, dtype=start.dtype) * size
            move = torch.where(torch.isfinite(start), move, 0)
            sides = []
            for sign in (1, -1):
                values, weights = list(leaves), list(base)
                target = values if position < len(leaves) else weights
                target[position if position < len(leaves) else position - len(leaves)] = (
                    start + sign * STEP * move
                )
                sides.append(outputs(values, weights))
            numeric = sum(
                float((c.conj() * (sides[0][i] - sides[1][i]).detach()).nan_to_num().real.sum())
                for i, c in zip(carrying, cotangents, strict=True)
            ) / (2 * STEP)
            analytic = 0.0 if grad is None else float((grad.conj() * move).real.sum())
            scale = 0.0 if grad is None else float((grad.abs() * move.abs()).pow(2).sum().sqrt())
            noise = 1e-9 * sum(
                float((results[i].detach().abs().nan_to_num(posinf=0) * c.abs()).sum())
                for i, c in zip(carrying, cotangents, strict=True)
            )
            scale = max(scale, abs(numeric))
            if abs(analytic - numeric) > noise:
                found = max(found, abs(analytic - numeric) / max(scale, 1e-12))
    return found


def _double(case: Case) -> tuple[nn.Module, Any, Any]:
    module, args, kwargs = case.make()
    wide: Callable[[Tensor], Tensor] = lambda t: (  # noqa: E731
        t.to(torch.complex128) if t.is_complex() else t.double() if t.is_floating_point() else t
    )
    for part in module.modules():
        for thing in vars(part).values():
            for item in thing if isinstance(thing, list) else []:
                if isinstance(item, nn.Module):
                    item.double()
    module = module.double()
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and p.is_complex():
                part._parameters[name] = nn.Parameter(p.detach().to(torch.complex128))
    args, kwargs = _replaced(
        (args, kwargs), lambda t: wide(t.detach()).requires_grad_(t.requires_grad)
    )
    return module, args, kwargs


def _seeded(module: nn.Module, args: Any, kwargs: Any) -> Any:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return module(*args, **kwargs)
    finally:
        torch.set_default_dtype(default)


def _duplicate(module: nn.Module) -> nn.Module:
    """A copy; the module itself where a copy would lose the hooks of parameters, or fails."""
    if any(p._backward_hooks for p in module.parameters()):
        return module
    try:
        return copy.deepcopy(module)
    except RuntimeError:
        return module


def _moves(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tensors(thing: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _replaced(thing, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def _copied(thing: Any) -> Any:
    return _replaced(thing, lambda t: t.detach().clone().requires_grad_(t.requires_grad))


def _replaced(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, dict):
        return {key: _replaced(value, change) for key, value in thing.items()}
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(_replaced(value, change) for value in thing))
    if isinstance(thing, (tuple, list)):
        return type(thing)(_replaced(value, change) for value in thing)
    if hasattr(thing, "__dataclass_fields__"):
        return [_replaced(getattr(thing, name), change) for name in thing.__dataclass_fields__]
    return thing
