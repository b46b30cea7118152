"""Which of the fixes that helped a finding goes first.

The measured effect decides, with one exception. A trial is short: what it shows of two fixes that
both end the failing is which one trains faster, and that is no proof of the better mend (the rule
that also gives "trains faster, no fault proved"). So a fix that removes the cause which the finding
names goes before one that makes up for it, as long as the training with it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEARNT = 0.5
"""The cause's fix must let the training learn at least this share of what the best one lets it
learn: below half of its twin a training counts as sick (docs/fixes.md, "The benchmark")."""


@dataclass(frozen=True, slots=True)
class Helped:
    """A fix that helped, as its trial measured it.

    Attributes:
        direct: whether it removes the cause that the finding names.
        score: its place by effect, the smallest first.
        learnt: share of the starting loss that it takes away with its worst seed; NaN where no
            start is known.
        fails: whether the training still fails with it on a seed.
    """

    direct: bool
    score: float
    learnt: float
    fails: bool


def ranked(helped: Sequence[Helped]) -> list[int]:
    """Positions of ``helped``, the one to do first in front."""
    order = sorted(range(len(helped)), key=lambda at: helped[at].score)
    if order and (first := preferred(helped, order[0])) is not None:
        order.remove(first)
        order.insert(0, first)
    return order


def preferred(helped: Sequence[Helped], best: int) -> int | None:
    """The cause's fix that goes before the ``best`` by effect; None where nothing does."""
    if helped[best].direct:
        return None
    enough = LEARNT * helped[best].learnt
    works = [
        at
        for at, fix in enumerate(helped)
        # NaN is never enough
        if fix.direct and not fix.fails and fix.learnt >= enough
    ]
    return min(works, key=lambda at: helped[at].score, default=None)
