"""What makes a unit's gradient wrong: a custom Function in it, or something that cuts the graph.

A Function that is not its own derivative by design (a straight-through estimator, a gradient
reversal) is replaced by a linear stand-in, and the unit is judged again without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradscope.finite_difference import designs
from gradscope.finite_difference.outcome import STRAIGHT_THROUGH, Outcome, overall
from gradscope.finite_difference.sampling import along, draw
from gradscope.finite_difference.unit import Leaf, Unit, input_leaf
from gradscope.observe.callsite import shown
from gradscope.observe.experiment.function_capture import FunctionCall, FunctionCapture
from gradscope.observe.experiment.function_replacement import FunctionReplacement
from gradscope.observe.experiment.functions import place_of
from gradscope.observe.experiment.probes import Undetached
from gradscope.observe.frames import owner
from gradscope.observe.reading.nested import differentiable

MOST = 8
"""Calls of custom Functions in one unit that are looked at."""
_SPECIFIC = ("factor", "sign", "blocked", "elements", "non-finite")


@dataclass(frozen=True)
class Judged:
    """A call of a custom Function and what its own check says."""

    call: FunctionCall
    outcomes: list[Outcome]


class Causes:
    """Explains the wrong outcomes of one unit."""

    def __init__(self, unit: Unit, seed: int, budget: int, look: Callable[[Leaf], Outcome]) -> None:
        """``look``: judges one leaf of the unit."""
        self._unit, self._seed, self._budget, self._look = unit, seed, budget, look

    def explained(self, found: dict[Leaf, Outcome]) -> dict[Leaf, Outcome]:
        """The outcomes, with what causes them; what is by design no longer wrong."""
        judged = [] if self._unit.name.endswith(")") else self._functions()
        designed = [j for j in judged if overall(o.verdict for o in j.outcomes) == "by-design"]
        if designed:
            found = self._without(found, designed)
        faulty = [j for j in judged if overall(o.verdict for o in j.outcomes) == "wrong"]
        wrong = {leaf for leaf, outcome in found.items() if outcome.verdict == "wrong"}
        if faulty:
            return {k: _blamed(o, faulty) if k in wrong else o for k, o in found.items()}
        return self._cut(found, wrong) if wrong else found

    # ------------------------------------------------------------------ custom Functions

    def _functions(self) -> list[Judged]:
        from gradscope.finite_difference.closer import Closer

        with FunctionCapture() as capture:
            self._unit.outputs()
        judged: list[Judged] = []
        seen: set[Any] = set()
        for call in capture.calls:
            key = call.cls, tuple(a.shape if isinstance(a, Tensor) else None for a in call.args)
            if not call.wanted or len(seen) >= MOST or key in seen:
                continue
            seen.add(key)
            unit = function_unit(call, self._unit)
            try:
                unit.choose_outputs()
                outcomes = list(
                    Closer(unit, self._seed, self._budget).outcomes(unit.leaves).values()
                )
            except Exception:  # alone it may not run (it needs its surroundings): no verdict then
                continue
            judged.append(Judged(call, outcomes))
        return judged

    def _without(
        self, found: dict[Leaf, Outcome], designed: Sequence[Judged]
    ) -> dict[Leaf, Outcome]:
        classes = {j.call.cls for j in designed}
        first = next(o for o in designed[0].outcomes if o.verdict == "by-design")
        told = self._unit.told
        result = dict(found)
        with FunctionReplacement(lambda _, cls: cls in classes) as stand_in:
            self._unit.told = (*told, stand_in)
            try:
                for leaf, outcome in found.items():
                    if outcome.verdict != "wrong":
                        continue
                    again = self._look(leaf)
                    if again.verdict == "right":
                        reason = f"{_name(designed[0].call)}: {first.reason}"
                        result[leaf] = replace(
                            outcome, verdict="by-design", kind=first.kind, reason=reason,
                            detail=outcome.detail | _where(designed[0].call),
                        )  # fmt: skip
                    elif again.verdict == "wrong":
                        result[leaf] = again
            finally:
                self._unit.told = told
        return result

    # ------------------------------------------------------------------ cuts of the graph

    def _cut(self, found: dict[Leaf, Outcome], wrong: set[Leaf]) -> dict[Leaf, Outcome]:
        mode = Undetached()
        explained: set[Leaf] = set()
        try:
            for number in (100, 101):
                self._unit.probe = mode
                drawn = draw(self._unit, self._seed, number)
                self._unit.probe = None
                if mode.cuts:
                    agreeing = {x for x in wrong if along(self._unit, drawn, [x]).agrees}
                    explained = agreeing if number == 100 else explained & agreeing
        except Exception:  # without its cuts the code may not run at all: then they explain nothing
            explained = set()
        finally:
            self._unit.probe = None
        straight = any(o.kind == STRAIGHT_THROUGH for o in found.values())
        if explained == wrong and not straight and mode.minuends:
            straight = designs.straight_cut(self._unit, self._seed)
        result = dict(found)
        for leaf in wrong:
            outcome = found[leaf]
            if straight and (leaf in explained or self._nothing_reaches(leaf)):
                reason = "A step function is passed straight through, by a detached difference."
                result[leaf] = replace(
                    outcome, verdict="by-design", kind=STRAIGHT_THROUGH, reason=reason
                )
            elif leaf in explained:
                result[leaf] = _with_cut(outcome, list(mode.cuts))
        return result

    def _nothing_reaches(self, leaf: Leaf) -> bool:
        return draw(self._unit, self._seed, 100).gradients[leaf] is None


def function_unit(call: FunctionCall, unit: Unit) -> Unit:
    """A custom Function alone, with what it was given inside ``unit``."""
    args = tuple(a.detach().clone() if isinstance(a, torch.nn.Parameter) else a for a in call.args)
    leaves, by_path = [], {}
    for position in sorted(call.wanted):
        tensor = args[position]
        if isinstance(tensor, Tensor) and differentiable(tensor) and tensor.numel():
            leaf = input_leaf(f"input {position}", tensor)
            leaves.append(leaf)
            by_path[f"0.{position}"] = leaf
    return Unit(
        f"{unit.name}({call.cls.__name__})", call.cls.apply, args, {}, leaves, unit.state,
        epsilon=unit.epsilon, widened=unit.widened, by_path=by_path,
    )  # fmt: skip


def _blamed(outcome: Outcome, faulty: Sequence[Judged]) -> Outcome:
    """``outcome`` with the Function at fault, and with its kind where that is more exact."""
    own = [(j, o) for j in faulty for o in j.outcomes if o.verdict == "wrong"]
    judged, first = own[0]
    detail = outcome.detail | _where(judged.call)
    reason = f"The backward of {_name(judged.call)} is not the derivative of its forward."
    same = len({o.kind for _, o in own}) == 1
    if outcome.kind == "other" and same and first.kind in _SPECIFIC:
        detail |= {k: v for k, v in first.detail.items() if k in ("ratio", "indices")}
        return replace(outcome, kind=first.kind, reason=reason, detail=detail)
    return replace(outcome, reason=_joined(outcome.reason, reason), detail=detail)


def _with_cut(outcome: Outcome, cuts: Sequence[tuple[str, str, int]]) -> Outcome:
    operation, file, line = cuts[0]
    more = "" if len(cuts) == 1 else f" and {len(cuts) - 1} more"
    reason = (
        f"`{operation}` at {file}:{line}{more} cuts the graph: without it both derivatives agree."
    )
    detail = outcome.detail | {"operation": operation, "file": file, "line": line}
    return replace(outcome, reason=_joined(outcome.reason, reason), detail=detail)


def _joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)


def _name(call: FunctionCall) -> str:
    return f"`{call.cls.__name__}`"


def _where(call: FunctionCall) -> dict[str, Any]:
    place = place_of(call.cls)
    found: dict[str, Any] = {"function": call.cls.__name__}
    if place is not None and owner(place[0]) == "user":
        found |= {"file": shown(place[0]), "line": place[1]}
    return found
