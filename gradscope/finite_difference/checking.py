"""The check of one unit: all leaves in a few directions, and a closer look where they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from gradscope.finite_difference.closer import Closer
from gradscope.finite_difference.directions import Comparison
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.sampling import Draw, along, differ, draw
from gradscope.finite_difference.unit import Leaf, Unit, UnstableError


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a check may do.

    Attributes:
        directions: independent pairs of cotangent and direction.
        separate: compare each leaf alone, not only all of them together.
        closer: evaluations for the closer look at one leaf that disagrees.
    """

    directions: int = 2
    separate: bool = True
    closer: int = 600


def check(unit: Unit, seed: int, effort: Effort, *, every: bool = False) -> list[Outcome]:
    """Outcomes of all leaves of a unit.

    A leaf to which no graph leads, and for which nobody asked, has none.

    Args:
        unit: what is checked.
        seed: of directions and cotangents.
        effort: how much to do.
        every: also compare results that carry no graph.
    """
    try:
        center = unit.choose_outputs(every=every)
        if not center:
            return _all(unit, "it gives no floating tensor: there is nothing to differentiate")
        reason = _not_a_number(center)
        if reason:
            return _all(unit, reason)
        return _Check(unit, seed, effort, center).outcomes()
    except UnstableError as error:
        return _all(unit, str(error))
    except Exception as error:
        # what the user's code raises at a moved point or in its backward is no verdict
        text = str(error).strip().splitlines()
        return _all(unit, f"it failed: {type(error).__name__}: {text[0] if text else ''}")


class _Check:
    def __init__(self, unit: Unit, seed: int, effort: Effort, center: list[Tensor]) -> None:
        self._unit, self._seed, self._effort, self._center = unit, seed, effort, center
        self._closer = Closer(unit, seed, effort.closer)

    def outcomes(self) -> list[Outcome]:
        first: dict[Leaf, Comparison] = {}
        joint: Comparison | None = None
        suspects: dict[Leaf, None] = {}
        leaves: list[Leaf] = []
        for number in range(self._effort.directions):
            drawn = draw(self._unit, self._seed, number)
            moving = differ(self._center, drawn.center, self._unit.epsilon)
            if moving:
                return _all(
                    self._unit,
                    "it is not deterministic: two evaluations at one point, with all random "
                    f"states the same, differ by {moving:.1e} of the result",
                )
            if number == 0:
                leaves = self._differentiated(drawn)
            suspects |= {leaf: None for leaf in leaves if drawn.nonfinite(leaf)}
            sound = [leaf for leaf in leaves if leaf not in suspects]
            if not sound:
                continue
            if self._effort.separate and number == 0:
                own = [leaf for leaf in sound if leaf.own]
                first = {leaf: along(self._unit, drawn, [leaf]) for leaf in own}
                suspects |= {
                    leaf: None for leaf, c in first.items() if not (c.agrees and c.resolved)
                }
                sound = [leaf for leaf in sound if not leaf.own]
                if not sound:
                    continue
            together = along(self._unit, drawn, sound)
            joint = joint or together
            if not (together.agrees and together.resolved):
                suspects |= dict.fromkeys(self._apart(drawn, sound))
        closely = self._closer.outcomes(list(suspects))
        found = []
        for leaf in leaves:
            if leaf in closely:
                # nobody asked for this gradient: a doubt about it is none about the module
                if leaf.asked or closely[leaf].verdict != "inconclusive":
                    found.append(closely[leaf])
                continue
            comparison = first.get(leaf) or joint
            if comparison is not None and leaf.own:
                found.append(self._right(leaf, comparison, alone=leaf in first))
        return found

    def _differentiated(self, drawn: Draw) -> list[Leaf]:
        """Leaves that somebody asked for or that have a gradient; all if none has one."""
        asked = [
            leaf for leaf in self._unit.leaves if leaf.asked or drawn.gradients[leaf] is not None
        ]
        return asked or list(self._unit.leaves)

    def _apart(self, drawn: Draw, leaves: Sequence[Leaf]) -> list[Leaf]:
        """The leaves that disagree when each moves alone; the worst one if none does."""
        if len(leaves) == 1:
            return list(leaves)
        alone = {leaf: along(self._unit, drawn, [leaf]) for leaf in leaves}
        wrong = [leaf for leaf, c in alone.items() if not (c.agrees and c.resolved)]
        if wrong:
            return wrong
        return [max(leaves, key=lambda leaf: alone[leaf].difference / (alone[leaf].scale or 1.0))]

    def _right(self, leaf: Leaf, comparison: Comparison, *, alone: bool) -> Outcome:
        detail = {
            "directions": self._effort.directions,
            "alone": alone,
            "sees": smallest_seen(comparison, self._effort.directions),
        }
        return Outcome(
            leaf.name, "right", None, comparison.analytic, comparison.numeric,
            comparison.error_bar, "", detail,
        )  # fmt: skip


def smallest_seen(comparison: Comparison, directions: int, probability: float = 0.99) -> float:
    """Smallest relative fault that would have been seen with this probability.

    Along a Gaussian direction a fault of relative size d shows as d |z| with z standard normal, and
    is missed where that is below the tolerance: with probability ``erf(t / (d sqrt 2))`` for each
    of the independent directions.
    """
    if not comparison.scale:
        return math.nan
    tolerance = comparison.tolerance / comparison.scale
    missed = (1 - probability) ** (1 / max(directions, 1))
    return tolerance / NormalDist().inv_cdf((1 + missed) / 2)


def _all(unit: Unit, reason: str) -> list[Outcome]:
    return [Outcome(leaf.name, "inconclusive", reason=reason) for leaf in unit.leaves]


def _not_a_number(center: Sequence[Tensor]) -> str:
    for position, result in enumerate(center):
        nans = int(torch.isnan(result).sum())
        if nans:
            which = f"result {position}" if len(center) > 1 else "the result"
            return (
                f"{which} holds NaN at the evaluation point ({nans} of {result.numel()} elements)"
            )
    if all(not bool(torch.isfinite(result).any()) for result in center if result.numel()):
        return "every element of the result is infinite at the evaluation point"
    return ""
