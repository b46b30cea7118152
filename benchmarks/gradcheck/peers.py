"""What others say about a case: ``torch.autograd.gradcheck`` and the script found everywhere."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from benchmarks.gradcheck.case import Case
from benchmarks.gradcheck.reference import _moves, _replaced, _tensors


@dataclass(frozen=True)
class Said:
    """What a tool says: ``right``, ``wrong`` or ``failed``, and the module that it names."""

    verdict: str
    module: str | None = None


def torch_gradcheck(case: Case, *, fast: bool, cast: bool) -> Said:
    """PyTorch's own check, over the floating inputs and all parameters.

    Args:
        case: what to check.
        fast: its fast mode.
        cast: in float64, the random states the same in each call; else as the module is given.
    """
    function, inputs, owners = as_function(case, cast=cast)
    try:
        gradcheck(function, tuple(inputs), fast_mode=fast, nondet_tol=0.0)
    except Exception as error:
        found = re.search(r"with respect to input (\d+)", str(error))
        named = owners[int(found[1])] if found and int(found[1]) < len(owners) else None
        return Said("wrong", named)
    return Said("right")


def naive(case: Case, *, elements: int = 10, step: float = 1e-3, limit: float = 1e-2) -> Said:
    """The naive script: some elements of each tensor, one central difference of the sum.

    The step and the limit are those that float32 allows.
    """
    function, inputs, owners = as_function(case, cast=False)
    generator = torch.Generator().manual_seed(0)

    def loss(values: list[Tensor]) -> Tensor:
        results = function(*values)
        results = results if isinstance(results, tuple) else (results,)
        return sum((r.abs() if r.is_complex() else r).sum() for r in results)  # type: ignore[return-value]

    try:
        total = loss(inputs)
        grads = torch.autograd.grad(total, inputs, allow_unused=True)
        worst = 0.0, ""
        for position, (tensor, grad) in enumerate(zip(inputs, grads, strict=True)):
            dense = torch.zeros_like(tensor) if grad is None else grad.to_dense()
            for index in torch.randperm(tensor.numel(), generator=generator)[:elements].tolist():
                sides = []
                for sign in (1, -1):
                    moved = tensor.detach().clone()
                    moved.view(-1)[index] += sign * step
                    values = [*inputs[:position], moved, *inputs[position + 1 :]]
                    sides.append(float(loss(values)))
                numeric = (sides[0] - sides[1]) / (2 * step)
                analytic = float(dense.reshape(-1)[index].real)
                error = abs(analytic - numeric) / max(abs(analytic), abs(numeric), 1e-8)
                if not error <= worst[0]:
                    worst = error, owners[position]
    except Exception:
        return Said("failed")
    return Said("wrong", worst[1]) if not worst[0] <= limit else Said("right")


def as_function(case: Case, *, cast: bool) -> tuple[Callable[..., Any], list[Tensor], list[str]]:
    """A case as a function of tensors: the function, its arguments, the module each belongs to."""
    module, args, kwargs = case.make()
    if cast:
        module = module.double()
        args, kwargs = _replaced(
            (args, kwargs),
            lambda t: t.double() if t.is_floating_point()
            else t.to(torch.complex128) if t.is_complex() else t,
        )  # fmt: skip
    given = [t for t in _tensors((args, kwargs)) if _moves(t)]
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    inputs = [t.detach().clone().requires_grad_() for t in (*given, *parameters.values())]
    owners = ["the input"] * len(given) + [n.rpartition(".")[0] for n in parameters]

    def function(*values: Tensor) -> Any:
        if cast:
            torch.manual_seed(7)
            random.seed(7)
            np.random.seed(7)  # noqa: NPY002
        entering = iter(values[: len(given)])
        a, k = _replaced((args, kwargs), lambda t: next(entering) * 1 if _moves(t) else t)
        held = dict(zip(parameters, values[len(given) :], strict=True))
        output = _run(module, held, a, k)
        results = tuple(t for t in _tensors(output) if _moves(t) and t.requires_grad)
        return results or tuple(t for t in _tensors(output) if _moves(t))

    return function, inputs, owners


def _run(module: nn.Module, parameters: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
    return (
        functional_call(module, parameters, args, kwargs) if parameters else module(*args, **kwargs)
    )
