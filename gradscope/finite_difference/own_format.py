"""The backward pass in the model's own single precision against the one in double precision.

Both are given the same numbers, rounded to single. A difference is a fault where it is far above
what rounding of the inputs does to the exact gradient, and above the forward pass's own error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradscope.finite_difference.directions import cotangents
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.unit import Leaf, Unit
from gradscope.observe.reading.nested import kept, mapped

LEAST = 2e-3
"""Relative difference of two gradients below which single precision is as it is: four decades
above its rounding."""
TIMES = 50.0
"""Times that the backward pass may be worse than the forward pass or than rounded inputs."""
_NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def precision_outcomes(unit: Unit, module: nn.Module, direct: bool, seed: int) -> list[Outcome]:
    """Outcomes of leaves whose gradient in single precision is far off; none where all is well.

    Args:
        unit: the call in double precision; all is right there.
        module: the same module in single precision.
        direct: its ``forward`` is called, not the module.
        seed: of the cotangent.
    """
    narrow = _narrow_unit(unit, module, direct)
    if narrow is None:
        return []
    shift = {
        leaf: other.base.to(leaf.base.dtype) - leaf.base
        for leaf, other in zip(unit.leaves, narrow.leaves, strict=True)
    }
    shift = {leaf: torch.nan_to_num(by, nan=0.0) for leaf, by in shift.items()}
    worst: dict[Leaf, tuple[float, float]] = {}
    for number in (0, 1):
        if number == 1 and all(error <= limit for error, limit in worst.values()):
            # a second cotangent is to confirm a fault, not to look for one
            break
        generator = unit.generator(seed, 5000 + number)
        with unit.elsewhere(shift):
            center, exact, weights = unit.gradient(lambda r: cotangents(r, generator))  # noqa: B023
        values, single, _ = narrow.gradient(
            lambda results: [w.to(r.dtype) for w, r in zip(weights, results, strict=True)]  # noqa: B023
        )
        forward = _apart(values, center)
        if not forward < 1e-3:
            # not the same function (other random numbers, another branch): nothing to compare
            return []
        rounded = _rounded(unit, shift, weights, exact, generator)
        sizes = [0.0 if g is None else _norm(g) * leaf.scale for g, leaf in
                 zip(exact, unit.leaves, strict=True)]  # fmt: skip
        for leaf, one, two, own in zip(unit.leaves, single, exact, rounded, strict=True):
            # a gradient that is nothing beside the others (of a bias before a norm) is rounding
            least = 1e-3 * max(sizes) / leaf.scale
            error = _apart([one], [two], least) if one is not None and two is not None else 0.0
            limit = max(LEAST, TIMES * (forward + own))
            known = worst.get(leaf)
            if known is None or error / limit < known[0] / known[1]:
                # both cotangents have to show it
                worst[leaf] = error, limit
    return [
        Outcome(
            leaf.name, "wrong", "precision", error, 0.0, limit,
            f"In single precision the gradient differs from the exact one by {error:.1e} of its "
            f"size; rounding explains {limit:.1e}.",
            {"relative": True},
        )
        for leaf, (error, limit) in worst.items()
        if not error <= limit
    ]  # fmt: skip


def _narrow_unit(unit: Unit, module: nn.Module, direct: bool) -> Unit | None:
    names = dict(module.named_parameters(remove_duplicate=False))
    leaves: list[Leaf] = []
    for leaf in unit.leaves:
        if leaf.parameter is None:
            narrow = _NARROW.get(leaf.base.dtype)
            if narrow is None:
                return None
            made = Leaf(
                leaf.name, leaf.base.to(narrow), shape=leaf.shape, stride=leaf.stride,
                own=leaf.own, asked=leaf.asked,
            )  # fmt: skip
            leaves.append(made)
            continue
        parameter = names.get(leaf.name)
        if parameter is None or parameter.dtype not in (torch.float32, torch.complex64):
            return None
        leaves.append(Leaf(leaf.name, parameter.detach().clone(), parameter))
    by_name = {leaf.name: leaf for leaf in leaves}

    def narrowed(tensor: Tensor) -> Tensor:
        new = kept(tensor)
        return new.to(_NARROW[new.dtype]) if new.dtype in _NARROW else new

    args, kwargs = mapped((unit.args, unit.kwargs), narrowed)
    return Unit(
        unit.name, module.forward if direct else module, args, kwargs, leaves, unit.state,
        epsilon=2.0**-23, chosen=list(unit.chosen),
        by_path={path: by_name[leaf.name] for path, leaf in unit.by_path.items()},
    )  # fmt: skip


def _rounded(
    unit: Unit,
    shift: dict[Leaf, Tensor],
    weights: Sequence[Tensor],
    exact: Sequence[Tensor | None],
    generator: torch.Generator,
) -> list[float]:
    """What rounding of all inputs and weights does to the exact gradients, each relative."""
    moved = {}
    for leaf, by in shift.items():
        noise = torch.randn(leaf.base.shape, generator=generator, dtype=torch.float64)
        noise = noise.to(leaf.base.device).to(leaf.base.dtype)
        step = torch.where(torch.isfinite(leaf.base), leaf.base * noise * 2.0**-24, 0)
        moved[leaf] = by + step
    with unit.elsewhere(moved):
        _, again, _ = unit.gradient(lambda _: list(weights))
    return [
        _apart([a], [b]) if a is not None and b is not None else 0.0
        for a, b in zip(again, exact, strict=True)
    ]


def _norm(tensor: Tensor) -> float:
    size = float(torch.linalg.vector_norm(tensor.reshape(-1)))
    return size if math.isfinite(size) else 0.0


def _apart(one: Sequence[Tensor], two: Sequence[Tensor], least: float = 0.0) -> float:
    """Norm of the difference over the norm of the second; infinite where the first is no number.

    The second counts as at least as large as ``least``.
    """
    difference, size = 0.0, 0.0
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape:
            return math.inf
        wide = torch.complex128 if b.is_complex() else torch.float64
        x, y = a.to(wide).reshape(-1), b.to(wide).reshape(-1)
        own = float(torch.linalg.vector_norm(y))
        if not math.isfinite(own):
            finite = torch.isfinite(y)
            x, y = x[finite], y[finite]
            own = float(torch.linalg.vector_norm(y))
        apart = float(torch.linalg.vector_norm(x - y))
        if not math.isfinite(apart):
            return math.inf
        difference += apart**2
        size += own**2
    size = max(size, least**2)
    return math.sqrt(difference / size) if size > 0 else (math.inf if difference > 1e-20 else 0.0)
