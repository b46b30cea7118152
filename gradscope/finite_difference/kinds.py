"""In what way a gradient is wrong: by comparisons along several directions and single elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gradscope.finite_difference.directions import Comparison, compare
from gradscope.finite_difference.sampling import Draw
from gradscope.finite_difference.unit import Leaf, Unit

SINGLES = 24
"""Single elements that are compared to tell a part from the whole."""
SHOWN = 8
"""Most indices that are told."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault with its evidence.

    Attributes:
        word: a key of ``rules.wrong_backward.KINDS``.
        ratio: analytic over numeric, where it is one number.
        indices: the worst elements found, as indices into the tensor.
    """

    word: str
    ratio: float | None = None
    indices: list[list[int]] = field(default_factory=list)


def classify(unit: Unit, leaf: Leaf, found: Sequence[tuple[Draw, Comparison]], budget: int) -> Kind:
    """The kind of a fault that is certain.

    Args:
        unit: at the point at which the fault was found.
        leaf: the tensor with the wrong gradient.
        found: comparisons along several directions.
        budget: evaluations that may be spent.
    """
    gradients = [drawn.gradients[leaf] for drawn, _ in found]
    if all(g is None or not bool((g != 0).any()) for g in gradients):
        return Kind("blocked", 0.0)
    ratio = constant_ratio([comparison for _, comparison in found])
    if ratio is not None:
        return Kind("sign" if abs(ratio + 1) < 1e-2 else "factor", ratio)
    drawn = max(found, key=lambda item: item[1].difference / max(item[1].tolerance, 1e-300))[0]
    part = _Part(unit, leaf, drawn, budget)
    if part.some_are_right():
        return Kind("elements", None, part.worst())
    return Kind("other")


def constant_ratio(comparisons: Sequence[Comparison]) -> float | None:
    """Analytic over numeric, if it is the same number along all directions; None if it is not."""
    # where the derivative along a direction is small by chance its ratio says little
    usable = [c for c in comparisons if abs(c.numeric) > max(0.05 * c.scale, 20 * c.error_bar)]
    if len(usable) < 3:
        return None
    ratios = [c.analytic / c.numeric for c in usable]
    mean = sum(ratios) / len(ratios)
    spread = max(abs(r - mean) for r in ratios)
    noise = max(c.error_bar / abs(c.numeric) for c in usable)
    return mean if spread <= 0.01 * abs(mean - 1) + 4 * noise * max(1.0, abs(mean)) else None


class _Part:
    """Comparisons with only some elements of a leaf moving."""

    def __init__(self, unit: Unit, leaf: Leaf, drawn: Draw, budget: int) -> None:
        self._unit, self._leaf, self._drawn = unit, leaf, drawn
        self._limit = unit.evaluations + budget
        self._known: dict[tuple[int, ...], Comparison] = {}

    def some_are_right(self) -> bool:
        """Whether single elements are right, or groups that cover much of the tensor."""
        count = self._leaf.base.numel()
        if count < 2:
            return False
        verdicts = []
        for group in (*self._singles(count), *_blocks(count)):
            comparison = self._of(group)
            if comparison is None:
                break
            significant = comparison.scale > 1e-6 * self._drawn.reference / math.sqrt(count)
            if significant and comparison.resolved:
                verdicts.append(comparison.agrees)
        return any(verdicts)

    def worst(self) -> list[list[int]]:
        """Indices of wrong elements, the worst first: found by halving groups that disagree."""
        count = self._leaf.base.numel()
        found: list[tuple[float, int]] = []
        pending = [torch.arange(count)]
        while pending and len(found) < SHOWN:
            group = pending.pop()
            comparison = self._of(group)
            if comparison is None:
                break
            if comparison.agrees:
                continue
            if len(group) == 1:
                found.append((comparison.difference, int(group[0])))
                continue
            middle = len(group) // 2
            pending += [group[:middle], group[middle:]]
        for group in self._singles(count):
            comparison = self._known.get(tuple(group.tolist()))
            if comparison is not None and not comparison.agrees:
                found.append((comparison.difference, int(group[0])))
        order = dict.fromkeys(index for _, index in sorted(found, reverse=True))
        return [self._leaf.index(index) for index in list(order)[:SHOWN]]

    def _singles(self, count: int) -> list[torch.Tensor]:
        step = max(1, count // SINGLES)
        # a stride next to the even one, so that not all of them lie in one channel
        places = [(k * step + k) % count for k in range(min(SINGLES, count))]
        return [torch.tensor([place]) for place in dict.fromkeys(places)]

    def _of(self, group: torch.Tensor) -> Comparison | None:
        key = tuple(group[:2].tolist()) + tuple(group[-1:].tolist()) + (len(group),)
        key = tuple(group.tolist()) if len(group) == 1 else key
        if key not in self._known:
            if self._unit.evaluations >= self._limit:
                return None
            whole = self._drawn.moves[self._leaf].reshape(-1)
            chosen = group.to(whole.device)
            move = torch.zeros_like(whole)
            move[chosen] = whole[chosen]
            move = move.reshape(self._leaf.base.shape)
            self._known[key] = compare(
                self._unit, {self._leaf: move}, self._drawn.gradients, self._drawn.weights,
                self._drawn.center,
            )  # fmt: skip
        return self._known[key]


def _blocks(count: int) -> list[torch.Tensor]:
    """Eight contiguous eighths of the elements."""
    edges = [count * k // 8 for k in range(9)]
    return [torch.arange(a, b) for a, b in itertools.pairwise(edges) if b > a]
