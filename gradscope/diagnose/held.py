"""How far a rule that passed is from a finding, and which number says so.

A rule with several limits is as far from a finding as the one that decides: the nearest where
breaking one limit is enough, the farthest where all of them must be broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradscope.diagnose.rule import Passed


@dataclass(frozen=True, slots=True)
class Held:
    """A limit that was looked at.

    Attributes:
        margin: how many times the value is inside its limit; below 1 it is beyond it, NaN where it
            is not known.
        said: the value and its limit in words.
    """

    margin: float
    said: str


UNKNOWN = Held(math.nan, "")


def nearest(limits: Iterable[Held]) -> Held:
    """The one that decides where one broken limit makes a finding."""
    return min((x for x in limits if x.margin >= 0), key=lambda x: x.margin, default=UNKNOWN)


def farthest(limits: Iterable[Held]) -> Held:
    """The one that decides where a finding needs all of them broken."""
    return max((x for x in limits if x.margin >= 0), key=lambda x: x.margin, default=UNKNOWN)


def passed(held: Held, also: str = "") -> Passed:
    """The outcome; ``also`` is what else was measured, after the number that decides.

    A value beyond its limit has no distance inside it: something that is no number speaks for it.
    """
    said = "; ".join(part for part in (held.said, also) if part)
    return Passed(held.margin if 1 <= held.margin < math.inf else None, said)
