"""One vector-Jacobian product against central differences along one direction.

For results y(x), a cotangent u and a direction v the backward pass claims ``<g, v>`` with
``g = J^T u``; the difference quotient ``<u, y(x + h v) - y(x - h v)> / 2h`` says what it is. The
quotient is taken at two steps, and at more only where the two do not agree. Its error bar is the
larger of what neighbouring steps differ by (truncation, kinks) and of the rounding of y divided by
the step (Nocedal & Wright, *Numerical optimization*, 2006, chapter 8).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.finite_difference.unit import Leaf, Moves, Unit

FLOOR = 1e-6
"""Relative difference below which nothing is called wrong, in double precision: constants that a
backward pass holds in single precision are off by 6e-8, and one decade is left for what multiplies
that."""
BARS = 8.0
"""Error bars between the two values from which they disagree."""
RESOLVED = 1e-3
"""Largest error bar, relative to the derivative, with which agreement says anything."""
ALIKE = 0.02
"""Relative difference of two quotients that both see the same slope through rounding."""
ROUNDING = 4.0
"""Roundings of a result's elements that are allowed for: each is the end of a chain of them."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Step sizes, relative to a leaf's scale: the two that come first, and all of the ladder."""

    first: tuple[float, float]
    ladder: tuple[float, ...]

    @classmethod
    def of(cls, epsilon: float) -> Steps:
        """For arithmetic with relative rounding ``epsilon``.

        The first two lie below the step that balances rounding and truncation, epsilon^(1/3): a
        smaller step crosses fewer kinks, and double precision has digits to spare.
        """
        if epsilon < 1e-12:
            return cls((1e-6, 2.5e-7), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 2.5e-7, 3e-8, 4e-9, 1e-9))
        middle = epsilon ** (1 / 3)
        return cls((2 * middle, middle), tuple(middle * 2.0**k for k in range(4, -4, -1)))


@dataclass(frozen=True, slots=True)
class Rung:
    """The quotient at one step.

    Attributes:
        step: relative step size.
        value: the difference quotient.
        gap: norm over the results of the difference of the two one-sided quotients.
        noise: rounding of the results divided by the step.
    """

    step: float
    value: float
    gap: float
    noise: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both derivatives along one direction.

    Attributes:
        analytic: from the backward pass.
        numeric: from the difference quotient.
        error_bar: uncertainty of ``numeric``.
        scale: size that the derivative has along a direction of this kind.
        rungs: quotients by step, largest first.
        tolerance: largest difference that is no disagreement.
    """

    analytic: float
    numeric: float
    error_bar: float
    scale: float
    rungs: tuple[Rung, ...]
    tolerance: float

    @property
    def difference(self) -> float:
        """How far apart the two are."""
        return abs(self.analytic - self.numeric)

    @property
    def agrees(self) -> bool:
        """Whether the two are the same within the tolerance."""
        return self.difference <= self.tolerance

    @property
    def resolved(self) -> bool:
        """Whether the quotient is known well enough to say anything."""
        return self.error_bar <= max(RESOLVED * self.scale, self.tolerance / BARS * 1.001) and (
            self.tolerance <= 0.05 * self.scale or self.scale == 0.0 or self.tolerance < 1e-300
        )

    @property
    def gap_stays(self) -> bool:
        """Whether the one-sided quotients stay apart as the step shrinks, enough to explain it."""
        finite = [r for r in self.rungs if math.isfinite(r.gap) and r.gap > 4 * r.noise]
        if len(finite) < 2:
            return False
        larger, smaller = finite[-2], finite[-1]
        # of a smooth function the gap shrinks as the step does
        shrinks = smaller.gap / larger.gap <= 2.0 * smaller.step / larger.step
        return not shrinks and smaller.gap >= 0.1 * self.difference


def cotangents(results: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A random Gaussian weight for each result, so scaled that each tensor counts the same."""
    found = []
    for result in results:
        weight = _gaussian(result, generator)
        weight = torch.where(torch.isfinite(result), weight, torch.zeros_like(weight))
        size = float(torch.linalg.vector_norm(torch.where(weight != 0, result, 0).reshape(-1)))
        found.append(weight / size if math.isfinite(size) and size > 1e-30 else weight)
    return found


def direction(leaf: Leaf, generator: torch.Generator) -> Tensor:
    """A random Gaussian direction for a leaf, of the leaf's own size; infinite elements stay."""
    move = _gaussian(leaf.base, generator).mul_(leaf.scale)
    if leaf.still is not None:
        move[leaf.still] = 0
    if leaf.finite:
        return move
    return torch.where(torch.isfinite(leaf.base), move, torch.zeros_like(move))


def inward(leaf: Leaf, generator: torch.Generator) -> Tensor:
    """A move of every element toward the middle: 0 for a parameter, the mean for an input.

    It stays inside whatever convex range the values have to be in: a clamp's, that of a
    probability, a simplex. A leaf without any spread moves at random.
    """
    base = torch.where(torch.isfinite(leaf.base), leaf.base, torch.zeros_like(leaf.base))
    middle = torch.zeros_like(base) if leaf.parameter is not None else base.mean().expand_as(base)
    way = (middle - base) * _gaussian(leaf.base, generator).abs()
    if leaf.still is not None:
        way[leaf.still] = 0
    if float(torch.linalg.vector_norm(way.reshape(-1))) < 1e-6 * leaf.scale:
        return direction(leaf, generator)
    return torch.where(torch.isfinite(leaf.base), way, torch.zeros_like(way))


def dot(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Real inner product over several tensors, summed in double precision."""
    return sum((_product(a, b) for a, b in zip(one, two, strict=True)), 0.0)


def size_along(gradients: Sequence[Tensor | None], moves: Sequence[Tensor]) -> float:
    """Typical size of ``<g, v>`` for directions of this kind: the norm of the product."""
    total = 0.0
    for gradient, move in zip(gradients, moves, strict=True):
        if gradient is not None:
            product = (gradient.abs() * move.abs()).to(torch.float64)
            total += float(torch.linalg.vector_norm(product.reshape(-1))) ** 2
    return math.sqrt(total) if math.isfinite(total) else math.inf


class Line:
    """The results of a unit along one direction, weighted by one cotangent."""

    def __init__(
        self, unit: Unit, moves: Moves, weights: Sequence[Tensor], center: Sequence[Tensor]
    ) -> None:
        self._unit, self._moves = unit, moves
        self._center = [torch.where(torch.isfinite(c), c, torch.zeros_like(c)) for c in center]
        self._weights = list(weights)
        self._whole = all(bool((w != 0).all()) for w in weights)
        self._rounding = ROUNDING * unit.epsilon * _norm(self._weights, self._center)
        self._rungs: dict[float, Rung] = {}

    def at(self, step: float) -> Rung:
        """The quotient at a step; computed once."""
        if step not in self._rungs:
            self._rungs[step] = self._compute(step)
        return self._rungs[step]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """What was computed, the largest step first."""
        return tuple(self._rungs[step] for step in sorted(self._rungs, reverse=True))

    def _compute(self, step: float) -> Rung:
        rounding = self._rounding / step
        try:
            up = self._unit.outputs(self._moves, step)
            down = self._unit.outputs(self._moves, -step)
        except Exception as error:  # the moved point may lie outside what the user's code takes
            self._unit.refused = error
            return Rung(step, math.nan, math.nan, rounding)
        if any(u.shape != c.shape for u, c in zip(up, self._center, strict=True)):
            return Rung(step, math.nan, math.nan, rounding)
        # the difference first, the sum over the results second: nothing is lost in between
        change = [self._masked(u - d, w) for u, d, w in zip(up, down, self._weights, strict=True)]
        bend = [
            self._masked(u - 2 * c + d, w)
            for u, d, c, w in zip(up, down, self._center, self._weights, strict=True)
        ]
        value = dot(self._weights, change) / (2 * step)
        return Rung(step, value, _norm(self._weights, bend) / step, rounding)

    def _masked(self, change: Tensor, weight: Tensor) -> Tensor:
        """``change`` where it counts: what is infinite at the point has no weight."""
        if self._whole:
            return change
        return torch.where(weight != 0, change, torch.zeros_like(change))


def quotient(
    line: Line, steps: Steps, scale: float, *, thorough: bool = False
) -> tuple[float, float]:
    """The derivative along a line, and its error bar.

    Two steps are enough where they agree; else the neighbours on the ladder that differ least, and
    are least rounded, give the value.
    """
    one, two = (line.at(step) for step in steps.first)
    value, bar = _pair(one, two)
    if bar <= 1e-7 * max(scale, abs(value)) and not thorough:
        return value, bar
    rungs = [line.at(step) for step in steps.ladder]
    pairs = [_pair(larger, smaller) for larger, smaller in itertools.pairwise(rungs)]
    best = min([(value, bar), *pairs], key=lambda pair: pair[1] if pair[1] >= 0 else math.inf)
    if best[0] == 0.0:
        # results that are rounded inside stand still for small steps: then larger ones know more,
        # if they agree with each other as those of a step function do not
        moving = [pair for pair in pairs if pair[0] and pair[1] <= ALIKE * abs(pair[0])]
        best = min(moving, key=lambda pair: pair[1], default=best)
    return best


def compare(
    unit: Unit,
    moves: Moves,
    gradients: Mapping[Leaf, Tensor | None],
    weights: Sequence[Tensor],
    center: Sequence[Tensor],
    *,
    reference: float = 0.0,
    thorough: bool = False,
) -> Comparison:
    """Compare both derivatives along ``moves``.

    Args:
        unit: what is differentiated.
        moves: the direction.
        gradients: from the backward pass with ``weights``, by leaf.
        weights: the cotangent.
        center: the results at the point.
        reference: size of the largest derivative of this unit: what is nothing beside it is noise.
        thorough: go down the whole ladder.
    """
    line = Line(unit, moves, weights, center)
    leaves = list(moves)
    found = [gradients.get(leaf) for leaf in leaves]
    directions = [moves[leaf] for leaf in leaves]
    analytic = dot(
        [g for g in found if g is not None],
        [d for g, d in zip(found, directions, strict=True) if g is not None],
    )
    scale = size_along(found, directions)
    value, bar = quotient(line, Steps.of(unit.epsilon), scale, thorough=thorough)
    scale = max(scale, abs(value)) if math.isfinite(value) else scale
    floor = FLOOR if unit.epsilon < 1e-12 else 2e-3
    tolerance = max(BARS * bar, floor * scale, 1e-10 * reference)
    return Comparison(analytic, value, bar, scale, line.rungs, tolerance)


def _pair(larger: Rung, smaller: Rung) -> tuple[float, float]:
    apart = abs(larger.value - smaller.value)
    if not math.isfinite(apart):
        return (smaller.value, math.inf)
    # where rounding explains the difference the larger step is the better one
    value = larger.value if apart <= 3 * smaller.noise else smaller.value
    noise = larger.noise if value is larger.value else smaller.noise
    return value, max(apart, noise)


def _gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    # seven digits of a random number are enough, and take half the time
    drawn = torch.complex64 if like.is_complex() else torch.float32
    made = torch.randn(like.shape, generator=generator, dtype=drawn)
    return made.to(device=like.device, dtype=like.dtype)


def _product(one: Tensor, two: Tensor) -> float:
    if one.is_complex() or two.is_complex():
        return float((one.conj() * two).real.to(torch.float64).sum())
    return float((one.to(torch.float64) * two.to(torch.float64)).sum())


def _norm(weights: Sequence[Tensor], values: Sequence[Tensor]) -> float:
    total = 0.0
    for weight, value in zip(weights, values, strict=True):
        product = (weight.abs() * value.abs()).to(torch.float64)
        total += float(torch.linalg.vector_norm(product.reshape(-1))) ** 2
    return math.sqrt(total)
