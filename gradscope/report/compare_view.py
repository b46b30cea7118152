"""A comparison as sections of sentences and tables."""

from __future__ import annotations

import math

from gradscope.diagnose.apart.outcome import Change, Comparison, LossDifference
from gradscope.diagnose.apart.parting import Difference
from gradscope.report.numbers import plural
from gradscope.report.trace_view import Section, Table
from gradscope.report.view.numerals import number

LISTED = 40
"""Differences in a table; the JSON has all."""
SECTIONS = (
    ("where", "Where they part"),
    ("made", "What is made differently"),
    ("findings", "Findings"),
    ("loss", "Loss"),
)
"""Key and name of the sections, in order."""


def sections(found: Comparison) -> list[Section]:
    """All sections that have something to say."""
    made = [
        Section("where", "Where they part", tuple(where(found)), tuple(_tables(found))),
        Section("made", "What is made differently", tuple(structure(found))),
        Section("findings", "Findings", (), (findings(found),)),
        Section("loss", "Loss", (loss(found.loss),)),
        Section("notes", "Notes", found.notes),
    ]
    return [s for s in made if s.sentences or any(table.rows for table in s.tables)]


def where(found: Comparison) -> list[str]:
    """The parting in words."""
    said = []
    if found.identical:
        return ["Everything that was recorded is equal, bit for bit."]
    if found.same_until is not None and found.same_until >= 0 and found.first:
        said.append(f"Up to step {found.same_until} everything is equal, bit for bit.")
    if found.first:
        step, layers, what = found.first
        names = ", ".join(f"`{name or 'the model'}`" for name in layers[:6])
        more = f" and {len(layers) - 6} more" if len(layers) > 6 else ""
        said.append(f"The first difference is in the {what} of {names}{more}, at step {step}.")
    if found.layers:
        names = ", ".join(f"`{name or 'the model'}`" for name in found.layers[:6])
        more = f" and {len(found.layers) - 6} more" if len(found.layers) > 6 else ""
        said.append(
            f"Layers that differ in something of their own, the most changed first: {names}{more}."
        )
    count = len(found.differences)
    said.append(
        f"{plural(count, 'statistic')} of {plural(found.tests, 'comparison')} "
        f"{'differs' if count == 1 else 'differ'} by more than seeds explain, over "
        f"{plural(found.steps, 'common sampled step')}."
    )
    if count > LISTED:
        said.append(f"The {LISTED} strongest are listed; the JSON has all.")
    return said


def listed(found: Comparison) -> list[Difference]:
    """The strongest differences, earliest first."""
    strongest = sorted(found.differences, key=lambda d: (not d.own, -d.strength))[:LISTED]
    kept = {id(difference) for difference in strongest}
    return [difference for difference in found.differences if id(difference) in kept]


def _tables(found: Comparison) -> list[Table]:
    rows = [
        (
            d.layer or "the model", d.name, times(d.times), f"×{number(d.limit)}",
            f"step {d.since}", number(d.a), number(d.b), "its own" if d.own else "handed on",
        )
        for d in listed(found)
    ]  # fmt: skip
    heads = ("layer", "statistic", "B / A", "by chance", "since", "A then", "B then", "whose")
    return [Table(heads, tuple(rows))] if rows else []


def times(factor: float) -> str:
    """B over A as a factor."""
    return f"×{number(factor)}"


def structure(found: Comparison) -> list[str]:
    """What is made differently, a sentence each."""
    return [f"{sentence[:1].upper()}{sentence[1:]}." for _, sentence in found.structure]


def findings(found: Comparison) -> Table:
    """Findings on both sides."""
    rows = [
        (c.kind, f"{c.finding.code} {c.finding.name}", c.finding.layer, side_a(c), side_b(c),
         c.finding.summary)
        for c in found.changes
    ]  # fmt: skip
    return Table(("from A to B", "finding", "layer", "A", "B", "why"), tuple(rows))


def side_a(change: Change) -> str:
    """Severity on side A, and in how many runs."""
    return _side(change.severity_a, change.in_a, change.runs_a)


def side_b(change: Change) -> str:
    """Severity on side B, and in how many runs."""
    return _side(change.severity_b, change.in_b, change.runs_b)


def _side(severity: str | None, runs: int, whole: int) -> str:
    if severity is None:
        return "–"
    return severity if whole == 1 else f"{severity} ({runs} of {whole})"


def loss(found: LossDifference | None) -> str:
    """The losses in a sentence."""
    if found is None:
        return "No loss was recorded on both sides."
    values = f"{number(found.a)} in A, {number(found.b)} in B"
    text = f"From step {found.since} on the mean loss is {values}"
    if math.isnan(found.limit):
        return f"{text}."
    if found.worse:
        return f"{text}: worse by more than the ×{number(found.limit)} that seeds explain."
    factor = found.b / found.a if found.a > 0 else math.nan
    if factor < 1 / found.limit:
        return f"{text}: better by more than the ×{number(found.limit)} that seeds explain."
    return f"{text}: no more apart than the ×{number(found.limit)} that seeds explain."


def facts(found: Comparison) -> list[tuple[str, str]]:
    """What was compared, as terms and values."""

    def side(folders: tuple[str, ...], steps: tuple[int, ...]) -> str:
        ranges = f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,}–{max(steps):,}"
        return f"{plural(len(folders), 'run')} of {ranges} steps"

    return [
        (found.a.name, side(found.a.folders, found.a.steps)),
        (found.b.name, side(found.b.folders, found.b.steps)),
        ("Compared", plural(found.tests, "statistic")),
        ("Regressions", str(len(found.regressions)) if found.regressions else "none"),
    ]
