"""The backward pass as a function of its own: is its derivative right, too?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradscope.finite_difference.checking import Effort, check
from gradscope.finite_difference.directions import cotangents
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.unit import Unit
from gradscope.observe.reading.nested import differentiable, tensors


def second_outcomes(unit: Unit, seed: int, effort: Effort) -> list[Outcome]:
    """Outcomes of the second derivative of a unit whose first is right; only those not right.

    The gradients for one fixed cotangent are differentiated, analytically and by differences.
    """
    outcomes = check(gradient_unit(unit, seed), seed, replace(effort, directions=2), every=True)
    found = []
    for outcome in outcomes:
        if outcome.verdict == "wrong":
            reason = "The gradient is right, its own derivative is not."
            detail = outcome.detail | {"form": outcome.kind}
            found.append(replace(outcome, kind="second-derivative", reason=reason, detail=detail))
        elif outcome.verdict == "inconclusive" and "nothing to differentiate" not in outcome.reason:
            found.append(replace(outcome, reason=f"second derivative: {outcome.reason}"))
    return found


def gradient_unit(unit: Unit, seed: int) -> Unit:
    """A unit whose results are the gradients of ``unit`` for one cotangent."""
    generator = unit.generator(seed, 4000)
    weights = cotangents(unit.outputs(), generator)
    parameters = [leaf.parameter for leaf in unit.leaves if leaf.parameter is not None]
    paths = set(unit.by_path)

    def call(*args: Any, **kwargs: Any) -> list[Tensor]:
        entering = {id(t): t for p, t in tensors((args, kwargs)) if p in paths and t.requires_grad}
        # the unit may change its arguments in place: the gradient is taken at what they were
        output = unit.call(*args, **kwargs)
        results = [t for _, t in tensors(output) if differentiable(t)]
        chosen = [results[i] for i in unit.chosen]
        total = sum(
            ((r * w.conj()).real.sum() if r.is_complex() else (r * w).sum()
             for r, w in zip(chosen, weights, strict=True) if r.requires_grad),
            torch.zeros(()),
        )  # fmt: skip
        inputs = [*entering.values(), *parameters]
        if not total.requires_grad or not inputs:
            return []
        grads = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
        return [
            torch.zeros_like(x) if g is None else g.to_dense() if g.is_sparse else g
            for g, x in zip(grads, inputs, strict=True)
        ]

    return Unit(
        unit.name, call, unit.args, unit.kwargs, unit.leaves, unit.state, epsilon=unit.epsilon,
        widened=unit.widened, told=unit.told, by_path=unit.by_path,
    )  # fmt: skip
