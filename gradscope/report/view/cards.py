"""A finding as its card shows it: every text final, nothing left to work out in the template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Evidence, Finding, Fix, Origin
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.selection import ignore_keys
from gradscope.recording.reader import Recording
from gradscope.report import summary
from gradscope.report.clean import lines, one_line
from gradscope.report.escape import anchor, scrub
from gradscope.report.excerpt import Excerpt, excerpt
from gradscope.report.hunk import hunk
from gradscope.report.numbers import plural
from gradscope.report.view.layers import Layers
from gradscope.report.view.naming import Names
from gradscope.report.view.numerals import crossed, distance, measured
from gradscope.report.view.prose import breakable, prose, section, sentence
from gradscope.report.view.trend import Trend, trend
from gradscope.report.view.trials import Picture, curves, reach

SEVERITY = {
    "critical": "training cannot succeed, or its numbers are wrong",
    "warning": "training is slower or more fragile than it need be",
    "note": "worth knowing; does no harm now",
}
CONFIDENCE = {
    "certain": "a fact, not an estimate",
    "strong": "measured over enough steps, well past the limit",
    "tentative": "few steps, or near the limit",
}
_APPLICABILITY = {
    "exact": ("applies as it stands", "the diff has one meaning and can be applied"),
    "placeholders": ("fill in the placeholders", "the diff needs a name or a number from you"),
    "may-change-results": (
        "may change results",
        "the diff applies, but the model or its training becomes another one",
    ),
    "idea": ("an idea", "no line to change was found; adapt it to your code"),
}
SAMPLES = 8
"""Most indices of samples that are written out."""
_LINES_SHOWN = 3
"""Most lines to change that are named beside a fix; the diff shows all of them."""
_CHANGES = 200
_ALSO_SHOWN = 8
"""One more is shown, too: a fold for a single name would hide more than it saves."""


@dataclass(frozen=True)
class EvidenceRow:
    """One measured number with its limit."""

    name: str
    value: str
    limit: str
    distance: str


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff: its class (``add``, ``del``, ``hunk``, ``file``, ``same``) and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class FixView:
    """A fix.

    Attributes:
        applicability, meaning: its word and what the word means.
        trial: one of the trial's statuses.
        tried: what the trial found, in words.
        curves, reach: losses and gradients of the trial, None where it was not tried.
        place: file and lines that the diff changes, "" where there is no diff.
        diff: lines of the diff; empty where there is a snippet or nothing.
        copy: the text that the copy button copies, "" for none.
    """

    title: Markup
    reason: Markup
    applicability: str
    meaning: str
    trial: str
    tried: Markup
    curves: Picture | None
    reach: Picture | None
    diff: tuple[DiffLine, ...]
    snippet: str
    copy: str
    cost: Markup
    place: str


@dataclass(frozen=True)
class Card:
    """A finding.

    Attributes:
        basis: what the confidence rests on in this run, "" where it is a plain fact.
        place, place_word: the line to look at, and what stands there.
        known: whether the baseline holds it.
        origin: terms and texts about the operation that made the first NaN or Inf.
    """

    id: str
    code: str
    name: str
    severity: str
    severity_meaning: str
    confidence: str
    confidence_meaning: str
    basis: str
    summary: Markup
    layer: Markup
    place: str
    place_word: str
    excerpt: Excerpt | None
    when: str
    known: bool
    also: tuple[Markup, ...]
    also_more: tuple[Markup, ...]
    trend: Trend | None
    evidence: tuple[EvidenceRow, ...]
    origin: tuple[tuple[str, Markup], ...]
    why: Markup
    causes: tuple[Markup, ...]
    fixes: tuple[FixView, ...]
    wrong_when: Markup
    silence: str
    has_page: bool
    layer_name: str


def cards(diagnosis: Diagnosis, layers: Layers, pages: Mapping[str, str]) -> tuple[Card, ...]:
    """One card a finding, in the diagnosis's order; ``pages`` holds the rules' pages by code."""
    used: dict[str, int] = {}
    return tuple(
        _card(finding, diagnosis, layers, pages.get(finding.code, ""), used)
        for finding in diagnosis.findings
    )


def _card(
    finding: Finding, diagnosis: Diagnosis, layers: Layers, page: str, used: dict[str, int]
) -> Card:
    name = next((n for n in (*finding.modules, *finding.parameters) if n), "")
    identity = anchor(finding.code, name)
    used[identity] = used.get(identity, 0) + 1
    if used[identity] > 1:
        identity = f"{identity}:{used[identity]}"
    location = summary.where(finding)
    label = Names.of(diagnosis.recording).label
    also = tuple(
        breakable(label(n) or "the whole model") for n in (*finding.modules[1:], *finding.also)
    )
    shown = _ALSO_SHOWN if len(also) > _ALSO_SHOWN + 1 else len(also)
    return Card(
        id=identity,
        code=finding.code,
        name=finding.name,
        severity=finding.severity,
        severity_meaning=SEVERITY[finding.severity],
        confidence=finding.confidence,
        confidence_meaning=CONFIDENCE[finding.confidence],
        basis=_basis(finding, layers),
        summary=sentence(finding.summary),
        layer=breakable(label(summary.place(finding, diagnosis.recording))),
        place=scrub(one_line(str(location))) if location else "",
        place_word=_place_word(finding, diagnosis.recording),
        excerpt=excerpt(diagnosis.recording, finding),
        when=_when(finding, diagnosis),
        known=diagnosis.is_known(finding),
        also=also[:shown],
        also_more=also[shown:],
        trend=trend(finding, diagnosis.recording, layers),
        evidence=tuple(_evidence(item) for item in finding.evidence),
        origin=_origin(finding.origin),
        why=sentence(finding.why),
        causes=tuple(sentence(cause) for cause in finding.causes),
        fixes=tuple(_fix(fix) for fix in finding.fixes),
        wrong_when=section(page, "When it is wrong"),
        silence=_silence(finding),
        has_page=bool(page),
        layer_name=one_line(name),
    )


def _place_word(finding: Finding, recording: Recording) -> str:
    """What stands on the card's line: a layer's construction, or the operation at fault."""
    built = location_of(recording, finding.modules[0]) if finding.modules else None
    return "built at" if built is not None and built == finding.location else "at"


def _basis(finding: Finding, layers: Layers) -> str:
    if finding.confidence == "certain":
        return ""
    within = (layers.steps >= finding.first_step) & (layers.steps <= finding.last_step)
    seen = f"{int(within.sum()):,} of {plural(len(layers.steps), 'sampled step')}"
    parts = [seen] if finding.has_steps else []
    for item in finding.evidence:
        if away := distance(item.value, item.limit, item.unit):
            parts.append(f"{one_line(item.name)} {away.removesuffix('it')}its limit")
            break
    return ", ".join(parts)


def _silence(finding: Finding) -> str:
    keys = ", ".join(json.dumps(one_line(key)) for key in ignore_keys(finding))
    return f"ignore = [{keys}]"


def _when(finding: Finding, diagnosis: Diagnosis) -> str:
    if not finding.has_steps:
        return ""
    if finding.first_step == finding.last_step:
        return f"at step {finding.first_step:,}"
    steps = diagnosis.recording.steps
    ends = len(steps) and finding.last_step >= int(steps["step"].max())
    last = f"to the last step, {finding.last_step:,}" if ends else f"to step {finding.last_step:,}"
    return f"from step {finding.first_step:,} {last}"


def _evidence(item: Evidence) -> EvidenceRow:
    unit = one_line(item.unit)
    return EvidenceRow(
        name=one_line(item.name),
        value=crossed(measured(item.value, unit)),
        limit="" if item.limit is None else crossed(measured(item.limit, unit)),
        distance=distance(item.value, item.limit, unit),
    )


def _origin(origin: Origin | None) -> tuple[tuple[str, Markup], ...]:
    if origin is None:
        return ()
    place = scrub(one_line(str(origin.location))) if origin.location else ""
    samples = ", ".join(str(sample) for sample in origin.samples[:SAMPLES])
    if len(origin.samples) > SAMPLES:
        samples += f" and {len(origin.samples) - SAMPLES} more"
    entries = (
        ("Born in", prose(f"`{origin.operation}`" if origin.operation else "")),
        ("Phase", prose(origin.phase)),
        ("Module", breakable(origin.module or "the model")),
        ("Line", breakable(place)),
        ("Rank", prose("" if origin.rank is None else str(origin.rank))),
        ("Samples of the batch", prose(samples)),
        ("Values", prose("; ".join(map(summary.operand, origin.operands)))),
        ("Why", sentence(origin.reason)),
    )
    return tuple((term, text) for term, text in entries if text)


def _fix(fix: Fix) -> FixView:
    word, meaning = _APPLICABILITY[fix.applicability]
    diff = scrub(fix.diff) if fix.diff else ""
    snippet = "\n".join(lines(scrub(fix.snippet))) if fix.snippet and not diff else ""
    if snippet and fix.applicability == "placeholders":
        meaning = "no line could be changed for you: put this where it belongs, with your names"
    return FixView(
        title=sentence(fix.title),
        reason=sentence(fix.reason),
        applicability=word,
        meaning=meaning,
        trial=fix.trial.status,
        tried=sentence(summary.tried(fix)),
        curves=curves(fix.trial),
        reach=reach(fix.trial),
        diff=tuple(DiffLine(_kind(line), line) for line in lines(diff.rstrip("\n")))
        if diff
        else (),
        snippet=snippet,
        copy=diff or snippet,
        cost=sentence(fix.cost),
        place=_changed(diff),
    )


def _changed(diff: str) -> str:
    """The first line of each stretch that changes: "model.py:22, 28"."""
    path, kept, _ = hunk(diff, context=0, most=_CHANGES)
    starts = [
        change.old
        for place, change in enumerate(kept)
        if not place or change.old > kept[place - 1].old + 1
    ]
    more = ", …" if len(starts) > _LINES_SHOWN else ""
    lines_shown = ", ".join(str(line) for line in starts[:_LINES_SHOWN])
    return f"{path}:{lines_shown}{more}" if path and starts else ""


def _kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "file"
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same")


@dataclass(frozen=True)
class DoFirst:
    """What the verdict proposes: the card to read, what to do, and where.

    Attributes:
        place, word: the line to change, or where none is known the line of the layer, and which of
            the two it is.
    """

    card: str
    title: Markup
    place: str
    word: str


def do_first(found: Sequence[Card]) -> DoFirst | None:
    """The first fix of the worst finding whose first fix helped, else of the worst that has one."""
    with_fix = [card for card in found if card.fixes]
    helped = [card for card in with_fix if card.fixes[0].trial == "helped"]
    for card in (*helped, *with_fix):
        fix = card.fixes[0]
        place = fix.place or card.place
        built = f"{card.layer.striptags()} is built at" if card.place_word == "built at" else "See"
        word = "Edit" if fix.place else built
        # a title that names the line already needs no second mention
        known = place in fix.title.striptags()
        return DoFirst(card.id, fix.title, "" if known else place, word)
    return None


__all__ = ["CONFIDENCE", "SEVERITY", "Card", "DoFirst", "cards", "do_first"]
