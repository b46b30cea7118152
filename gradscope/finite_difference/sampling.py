"""Comparisons of one unit along several directions, each with a cotangent of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.finite_difference.directions import (
    Comparison,
    compare,
    cotangents,
    direction,
    size_along,
)
from gradscope.finite_difference.unit import Leaf, Unit

Gradients = Mapping[Leaf, Tensor | None]


@dataclass(frozen=True)
class Draw:
    """One cotangent with its gradients, and one direction for each leaf.

    Attributes:
        center: results at the point.
        weights: the cotangent.
        gradients: by leaf; None where no graph leads to it.
        moves: by leaf.
        reference: size of the largest directional derivative of this unit.
    """

    center: list[Tensor]
    weights: list[Tensor]
    gradients: Gradients
    moves: dict[Leaf, Tensor]
    reference: float

    def nonfinite(self, leaf: Leaf) -> bool:
        """Whether the gradient of ``leaf`` holds a NaN or an Inf."""
        gradient = self.gradients[leaf]
        return gradient is not None and not bool(torch.isfinite(gradient).all())


def draw(unit: Unit, seed: int, number: int) -> Draw:
    """Differentiate the unit once, with cotangent and directions number ``number``."""
    generator = unit.generator(seed, number)
    center, found, weights = unit.gradient(lambda results: cotangents(results, generator))
    moves = {leaf: direction(leaf, generator) for leaf in unit.leaves}
    gradients = dict(zip(unit.leaves, found, strict=True))
    sizes = [size_along([gradients[leaf]], [moves[leaf]]) for leaf in unit.leaves]
    finite = [size for size in sizes if math.isfinite(size)]
    return Draw(center, weights, gradients, moves, max(finite, default=0.0))


def along(unit: Unit, drawn: Draw, leaves: Sequence[Leaf], *, thorough: bool = False) -> Comparison:
    """Compare along the draw's direction, moving only ``leaves``."""
    return compare(
        unit, {leaf: drawn.moves[leaf] for leaf in leaves}, drawn.gradients, drawn.weights,
        drawn.center, reference=drawn.reference, thorough=thorough,
    )  # fmt: skip


def samples(
    unit: Unit, leaf: Leaf, seed: int, numbers: Sequence[int]
) -> list[tuple[Draw, Comparison]]:
    """Comparisons of one leaf in fresh directions."""
    found = []
    for number in numbers:
        drawn = draw(unit, seed, number)
        found.append((drawn, along(unit, drawn, [leaf])))
    return found


def differ(one: Sequence[Tensor], two: Sequence[Tensor], epsilon: float) -> float:
    """Largest difference of two evaluations, relative to the results; 0 within rounding.

    Results of other shapes differ without limit.
    """
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if a.shape != b.shape:
            return math.inf
        finite = torch.isfinite(a) & torch.isfinite(b)
        if bool((torch.isfinite(a) != torch.isfinite(b)).any()):
            return math.inf
        if not bool(finite.any()):
            continue
        apart = float((a[finite] - b[finite]).abs().max())
        size = float(a[finite].abs().max())
        if apart > 0:
            worst = max(worst, apart / size if size else math.inf)
    return worst if worst > 64 * epsilon else 0.0
