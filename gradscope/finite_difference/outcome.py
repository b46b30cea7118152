"""What a check says about one tensor of one module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["right", "wrong", "by-design", "inconclusive"]

ORDER: tuple[Verdict, ...] = ("wrong", "by-design", "inconclusive", "right")
"""Which verdict stands for several: a fault before a design, a design before a doubt."""
STRAIGHT_THROUGH = "straight-through"
REVERSAL = "gradient-reversal"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one tensor.

    Attributes:
        tensor: ``input 0``, ``weight`` …
        verdict: see ``Verdict``.
        kind: kind of fault or design, one of the keys of ``rules.wrong_backward.KINDS``; None else.
        analytic, numeric: directional derivatives along one direction; NaN where there is none.
        error_bar: uncertainty of ``numeric``.
        reason: a sentence, "" where there is nothing to add.
        detail: more of it: ``steps``, ``indices``, ``ratio``, ``directions``, ``function`` ….
    """

    tensor: str
    verdict: Verdict
    kind: str | None = None
    analytic: float = float("nan")
    numeric: float = float("nan")
    error_bar: float = float("nan")
    reason: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The one verdict that stands for all; ``right`` for none."""
    found = set(verdicts)
    return next((verdict for verdict in ORDER if verdict in found), "right")
