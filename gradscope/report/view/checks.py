"""The checks that found nothing: passed, not applicable, undecided, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.report.view.numerals import times
from gradscope.report.view.prose import sentence


@dataclass(frozen=True)
class Check:
    """One check: ``text`` is what was measured, why it does not apply, or what is missing."""

    code: str
    name: str
    title: str
    text: Markup
    margin: str = ""


@dataclass(frozen=True)
class Clump:
    """Checks of one outcome."""

    key: str
    title: str
    meaning: str
    checks: tuple[Check, ...]


def clumps(diagnosis: Diagnosis) -> tuple[Clump, ...]:
    """Undecided first: these are what the reader may still want to know."""
    passed = tuple(
        Check(
            rule.code,
            rule.name,
            rule.title_ok,
            sentence(outcome.measured),
            "" if outcome.margin is None else f"{times(outcome.margin)} inside its limit",
        )
        for rule, outcome in sorted(
            diagnosis.passed, key=lambda item: (item[1].margin is None, item[1].margin or 0)
        )
    )
    undecided = tuple(
        Check(rule.code, rule.name, rule.title, sentence(outcome.missing))
        for rule, outcome in diagnosis.undecided
    )
    absent = tuple(
        Check(rule.code, rule.name, rule.title, sentence(outcome.reason))
        for rule, outcome in diagnosis.not_applicable
    )
    return (
        Clump("undecided", "Could not decide", "each with its reason", undecided),
        Clump("passed", "Passed", "looked, and found nothing; the closest first", passed),
        Clump("absent", "Not applicable", "this run has nothing of the kind", absent),
    )
