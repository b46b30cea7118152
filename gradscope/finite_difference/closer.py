"""The closer look at leaves whose two derivatives differ: is it a fault, and of what kind?

In this order: noise (of single precision inside, of chance), a kink at the point, a gradient that
is no number, a design (straight-through, reversal), and only then a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from gradscope.finite_difference import designs
from gradscope.finite_difference.causes import Causes
from gradscope.finite_difference.directions import Comparison, compare, direction, inward
from gradscope.finite_difference.kinds import classify, constant_ratio
from gradscope.finite_difference.outcome import REVERSAL, STRAIGHT_THROUGH, Outcome
from gradscope.finite_difference.sampling import Draw, along, differ, samples
from gradscope.finite_difference.unit import Leaf, Moves, Unit

SHIFTS = (3e-3, 1e-3, 3e-2, 1e-2, 1e-1)
"""How far the point is moved away from a kink, in parts of each leaf's size."""
Found = list[tuple[Draw, Comparison]]


class Closer:
    """Looks closer at single leaves of one unit."""

    def __init__(self, unit: Unit, seed: int, budget: int) -> None:
        self._unit, self._seed, self._budget = unit, seed, budget

    def outcomes(self, leaves: Sequence[Leaf]) -> dict[Leaf, Outcome]:
        """The outcome of each of ``leaves``, which all seem to be wrong."""
        if not leaves:
            return {}
        designs.hold_padding(self._unit, leaves)
        found = {leaf: self._look(leaf) for leaf in leaves}
        if any(o.verdict == "wrong" for o in found.values()):
            found = Causes(self._unit, self._seed, self._budget, self._look).explained(found)
        return found

    # ------------------------------------------------------------------ one leaf

    def _look(self, leaf: Leaf) -> Outcome:
        found = samples(self._unit, leaf, self._seed, (100, 101, 102, 103))
        if any(drawn.nonfinite(leaf) for drawn, _ in found):
            return self._nonfinite(leaf, found[0][0])
        bad = [item for item in found if not item[1].agrees]
        if not bad and all(c.resolved for _, c in found):
            return _outcome(leaf, found[0][1], "right")
        if not self._unit.widened and self._unit.epsilon < 1e-12:
            wider = self._in_double(leaf, found)
            if wider is not None:
                return wider
        if any(c.gap_stays or not math.isfinite(c.numeric) for _, c in bad):
            return self._beside(leaf, found)
        return self._judged(leaf, found, {})

    def _judged(self, leaf: Leaf, found: Found, shift: Moves, place: str = "") -> Outcome:
        """The verdict on comparisons at a smooth point."""
        bad = [item for item in found if not item[1].agrees]
        known = [c for _, c in found if c.resolved]
        if not bad and len(known) >= 2:
            return _outcome(leaf, known[0], "right", reason=place)
        if not known or len(bad) < 2:
            worst = max((c for _, c in found), key=lambda c: c.error_bar / (c.scale or 1.0))
            return _outcome(
                leaf, worst, "inconclusive",
                reason="the difference quotient is too uncertain to decide: its error bar is "
                f"{worst.error_bar / (worst.scale or 1.0):.1e} of the derivative",
            )  # fmt: skip
        worst = max((c for _, c in bad), key=lambda c: c.difference / max(c.tolerance, 1e-300))
        detail: dict[str, Any] = {}
        with self._unit.elsewhere(shift):
            if designs.locally_constant(found) and designs.changes(self._unit, leaf, self._seed):
                if designs.opposed(self._unit, leaf, found, self._seed):
                    return _outcome(leaf, worst, "wrong", "sign", reason=_OPPOSED)
                return _outcome(leaf, worst, "by-design", STRAIGHT_THROUGH, reason=_STRAIGHT)
            ratio = constant_ratio([c for _, c in found])
            if ratio is not None and ratio < 0 and designs.identity(self._unit, leaf):
                reason = (
                    f"The result is the input itself, its gradient {ratio:.4g} times the true one."
                )
                return _outcome(leaf, worst, "by-design", REVERSAL, reason=reason, ratio=ratio)
            kind = classify(self._unit, leaf, found, self._budget)
            worst = self._ladder(leaf, found, worst)
            detail["steps"] = [[r.step, r.value] for r in worst.rungs]
        if kind.ratio is not None:
            detail["ratio"] = kind.ratio
        if kind.indices:
            detail["indices"] = kind.indices
            detail["leaf_flat"] = leaf.strided
        return _outcome(leaf, worst, "wrong", kind.word, reason=place, **detail)

    def _ladder(self, leaf: Leaf, found: Found, worst: Comparison) -> Comparison:
        """``worst`` once more at every step: the curve that a finding shows."""
        drawn = next(drawn for drawn, c in found if c is worst)
        return along(self._unit, drawn, [leaf], thorough=True)

    def _in_double(self, leaf: Leaf, found: Found) -> Outcome | None:
        """The verdict when everything is computed in double precision; None if it is no other."""
        plain = self._unit.outputs()
        self._unit.widened = True
        try:
            again = samples(self._unit, leaf, self._seed, (100, 101, 102, 103))
            rounded = differ(plain, self._unit.outputs(), 0.0) > 1e-12
        except Exception:  # the plain run succeeded, so it is the mode that fails
            again, rounded = [], False
        finally:
            self._unit.widened = False
        if not again or not all(c.agrees and c.resolved for _, c in again):
            return None
        worst = max((c for _, c in found), key=lambda c: c.difference / max(c.tolerance, 1e-300))
        if all(c.resolved for _, c in found) and not rounded:
            reason = (
                "The backward pass computes in a smaller format than the forward pass: with all in "
                "double precision both derivatives agree."
            )
            steps = [[r.step, r.value] for r in worst.rungs]
            return _outcome(leaf, worst, "wrong", "precision", reason=reason, steps=steps)
        reason = (
            "It computes in a smaller format inside; in double precision throughout it is right."
        )
        return _outcome(leaf, again[0][1], "right", reason=reason)

    def _beside(self, leaf: Leaf, found: Found) -> Outcome:
        """The verdict at a smooth point next to a kink."""
        for attempt, size in enumerate(SHIFTS):
            generator = self._unit.generator(self._seed, 1000 + attempt)
            way = inward if attempt % 2 == 0 else direction
            shift = {one: way(one, generator) * size for one in self._unit.leaves}
            try:
                with self._unit.elsewhere(shift):
                    there = samples(
                        self._unit, leaf, self._seed, [200 + 10 * attempt + k for k in range(4)]
                    )
            except Exception:  # a point where the function is not defined
                continue
            bad = [c for _, c in there if not c.agrees]
            if any(
                not math.isfinite(c.numeric) or (not c.agrees and c.gap_stays) for _, c in there
            ):
                continue
            if any(drawn.nonfinite(leaf) for drawn, _ in there) or not all(
                c.resolved for _, c in there
            ):
                continue
            place = (
                "" if bad else f"The point is a kink; compared at a point {size:g} away from it."
            )
            return self._judged(leaf, there, shift, place)
        worst = max((c for _, c in found), key=lambda c: c.difference)
        return _outcome(
            leaf, worst, "inconclusive",
            reason="there is a kink at the point and at every point tried near it"
            if self._unit.refused is None
            else f"points near it are refused: {self._unit.refused}",
        )  # fmt: skip

    def _nonfinite(self, leaf: Leaf, drawn: Draw) -> Outcome:
        """The verdict on a gradient that holds a NaN or an Inf."""
        gradient = drawn.gradients[leaf]
        assert gradient is not None
        bad = ~torch.isfinite(gradient)
        move = torch.where(bad, drawn.moves[leaf], torch.zeros_like(drawn.moves[leaf]))
        zero = {leaf: torch.zeros_like(gradient)}
        comparison = compare(
            self._unit, {leaf: move}, zero, drawn.weights, drawn.center, thorough=True
        )
        indices = [leaf.index(int(i)) for i in bad.reshape(-1).nonzero()[:8, 0]]
        smooth = math.isfinite(comparison.numeric) and comparison.error_bar <= 1e-3 * max(
            abs(comparison.numeric), drawn.reference, 1.0
        )
        smooth = smooth and not (comparison.gap_stays and comparison.difference > 0)
        if smooth and not _kinked(comparison):
            return Outcome(
                leaf.name, "wrong", "non-finite", math.nan, comparison.numeric,
                comparison.error_bar,
                f"{int(bad.sum())} of {bad.numel()} elements of the gradient are not finite.",
                {"indices": indices, "steps": [[r.step, r.value] for r in comparison.rungs]},
            )  # fmt: skip
        return Outcome(
            leaf.name, "inconclusive", None, math.nan, comparison.numeric, comparison.error_bar,
            "the gradient is not finite where the function itself has no derivative "
            f"({int(bad.sum())} of {bad.numel()} elements)",
            {"indices": indices},
        )  # fmt: skip


_STRAIGHT = (
    "The result does not change when the input moves a little, but does when it moves far: the "
    "gradient is an estimate of that."
)
_OPPOSED = (
    "The result does not change when the input moves a little; when it moves far, it changes "
    "against the gradient."
)


def _kinked(comparison: Comparison) -> bool:
    """One-sided quotients that stay apart by as much as the quotient itself."""
    rungs = [r for r in comparison.rungs if math.isfinite(r.gap) and r.gap > 10 * r.noise]
    if len(rungs) < 2:
        return False
    larger, smaller = rungs[-2], rungs[-1]
    return smaller.gap > 2.0 * larger.gap * smaller.step / larger.step


def _outcome(
    leaf: Leaf, comparison: Comparison, verdict: Any, kind: str | None = None, *,
    reason: str = "", **detail: Any,
) -> Outcome:  # fmt: skip
    return Outcome(
        leaf.name, verdict, kind, comparison.analytic, comparison.numeric, comparison.error_bar,
        reason, detail,
    )  # fmt: skip
