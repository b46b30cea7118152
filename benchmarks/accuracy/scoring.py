"""Counts: recall, precision, localisation, false alarms, with 95 % intervals."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.labelling import Label

ALARMING = ("critical", "warning")
"""Severities that count; a note is no alarm."""

NOT_LEARNING = "GS505"
"""True of every sick training, whatever its cause; right, but it names no cause."""


@dataclass(frozen=True)
class Said:
    """One alarm of a tool: a code, and the first module that it names."""

    code: str
    first: str | None = None


@dataclass(frozen=True)
class Judged:
    """A case with its label and what a tool said.

    Attributes:
        case: the training.
        label: as measured.
        codes: that name the fault rightly, the expected one first; empty without a fault.
        at_fault: modules any of which is rightly named first; empty where it is no module's.
        said: the tool's alarms.
    """

    case: Case
    label: Label
    codes: tuple[str, ...]
    at_fault: tuple[str, ...]
    said: tuple[Said, ...]

    @property
    def named(self) -> bool:
        """Whether an alarm names the fault."""
        return any(alarm.code in self.codes for alarm in self.said)

    @property
    def located(self) -> bool | None:
        """Whether the first alarm that names the fault names its module; None if none could."""
        naming = [alarm for alarm in self.said if alarm.code in self.codes]
        if not naming or not self.at_fault:
            return None
        return is_at(naming[0].first, self.at_fault)


@dataclass(frozen=True)
class Share:
    """``hits`` of ``count``."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.count if self.count else math.nan

    def interval(self) -> tuple[float, float]:
        """95 % interval of Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953."""
        if not self.count:
            return math.nan, math.nan
        z = 1.959964
        n, p = self.count, self.hits / self.count
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Score:
    """Figures over some trainings.

    Attributes:
        trainings: by label.
        alarmed: sick trainings with any alarm.
        named: sick trainings whose fault is named.
        precise: alarms that are right, of all alarms in sick and healthy trainings.
        located: named faults whose module is named first, of those that are a module's.
        false_alarms: healthy trainings with an alarm.
    """

    trainings: Counter[str]
    alarmed: Share
    named: Share
    precise: Share
    located: Share
    false_alarms: Share


def is_at(name: str | None, at_fault: Sequence[str]) -> bool:
    """Whether ``name`` is one of ``at_fault`` or a part of one.

    Names of several watched models begin with the variable: ``model.body.0`` is ``body.0``.
    """
    if name is None:
        return False
    return any(
        re.match(rf"(?:\w+[.:])?{re.escape(place)}(?:\W.*)?$", name) is not None
        for place in at_fault
    )


def is_right(judged: Judged, code: str) -> bool:
    """Whether an alarm with ``code`` is right: the training is sick, and this is why."""
    return judged.label == "sick" and (code in judged.codes or code == NOT_LEARNING)


def score(cases: Iterable[Judged]) -> Score:
    """Figures over ``cases``; those between the label's limits are only counted."""
    cases = list(cases)
    sick = [c for c in cases if c.label == "sick"]
    healthy = [c for c in cases if c.label == "healthy"]
    alarms = [(c, alarm.code) for c in (*sick, *healthy) for alarm in c.said]
    located = [c.located for c in sick if c.located is not None]
    return Score(
        Counter(c.label for c in cases),
        Share(sum(bool(c.said) for c in sick), len(sick)),
        Share(sum(c.named for c in sick), len(sick)),
        Share(sum(is_right(c, code) for c, code in alarms), len(alarms)),
        Share(sum(located), len(located)),
        Share(sum(bool(c.said) for c in healthy), len(healthy)),
    )


def score_code(cases: Iterable[Judged], code: str) -> Score:
    """Figures of one code.

    Recall and localisation are over the trainings whose expected code it is, precision and false
    alarms over its own alarms in all of them.
    """
    cases = list(cases)
    own = score(c for c in cases if c.codes[:1] == (code,))
    alarms = [c for c in cases if c.label in ("sick", "healthy") for a in c.said if a.code == code]
    healthy = [c for c in cases if c.label == "healthy"]
    return Score(
        own.trainings,
        own.alarmed,
        own.named,
        Share(sum(is_right(c, code) for c in alarms), len(alarms)),
        own.located,
        Share(sum(any(a.code == code for a in c.said) for c in healthy), len(healthy)),
    )
