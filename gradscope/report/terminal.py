"""A diagnosis for a terminal, in the form of a compiler's messages."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gradscope.anatomy.facts import Anatomy
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix, Severity
from gradscope.recording.reader import Recording
from gradscope.report import numbers, summary, trace_words
from gradscope.report.clean import encodable, lines, one_line
from gradscope.report.excerpt import Excerpt, excerpt
from gradscope.report.hunk import hunk
from gradscope.report.run_facts import RunFacts, run_facts
from gradscope.report.screen import Screen

LEVELS: dict[Severity, tuple[str, str]] = {
    "critical": ("error", "bold red"),
    "warning": ("warning", "bold yellow"),
    "note": ("note", "bold cyan"),
}
"""The word at the head of a finding and its style, by severity."""
_FRAME, _HELP, _GOOD, _DIM = "bold blue", "bold green", "bold green", "dim"
_SIGNS = {"+": "green", "-": "red", " ": ""}
_SNIPPET_LINES = 12

SHOWN = 5
"""Pieces of evidence in the terminal: a rule puts the deciding ones first."""


def render(
    diagnosis: Diagnosis,
    *,
    screen: Screen | None = None,
    report: Path | None = None,
) -> str:
    """All findings with their evidence and first fix, then the verdict.

    Args:
        diagnosis: what to show.
        screen: width, colour and encoding; None: 100 columns of UTF-8 without colour.
        report: the HTML page that was written, whose URL goes below the verdict.

    Returns:
        The text, ended by a line break; the same for the same arguments, whatever the environment.
    """
    screen = screen or Screen()
    facts = run_facts(diagnosis.recording)
    text = Text()
    for finding in diagnosis.findings:
        known = diagnosis.is_known(finding)
        text.append_text(_Block(finding, diagnosis.recording, screen, known=known).text())
        text.append("\n")
    if isinstance(diagnosis.explained, Anatomy):
        text.append("one training step, taken apart\n", "bold")
        for line in trace_words.lines(diagnosis.explained):
            text.append(f"  {_wrapped(line, screen.width - 2, 4, 2)}\n")
        text.append("\n")
    text.append_text(_end(diagnosis, facts, screen, report))
    return encodable(coloured(text) if screen.colour else text.plain, screen.encoding)


def coloured(text: Text) -> str:
    """``text`` with the escape sequences of a terminal."""
    buffer = io.StringIO()
    # every setting is given, so that the environment has no say here; screen.py has read it
    console = Console(
        file=buffer,
        force_terminal=True,
        color_system="standard",
        no_color=False,
        legacy_windows=False,
        width=1_000,
        _environ={},
    )
    console.print(text, end="", soft_wrap=True)
    return buffer.getvalue()


class _Block:
    """The text of one finding, built from top to bottom."""

    def __init__(
        self, finding: Finding, recording: Recording, screen: Screen, *, known: bool
    ) -> None:
        self.finding = finding
        self.known = known
        self.recording = recording
        self.screen = screen
        self.excerpt = excerpt(recording, finding)
        fix = finding.fixes[0] if finding.fixes else None
        self.path, self.changes, self.left_out = (
            hunk(fix.diff) if fix and fix.diff else (None, [], 0)
        )
        shown = [change.line for change in self.changes]
        if self.excerpt:
            shown.append(self.excerpt.line)
        self.gutter = len(str(max(shown, default=0)))
        self.out = Text()

    def text(self) -> Text:
        self._head()
        if self.excerpt:
            self._source(self.excerpt)
        self._facts()
        if self.finding.fixes:
            self._help(self.finding.fixes[0])
        return self.out

    def _head(self) -> None:
        finding = self.finding
        word, style = LEVELS[finding.severity]
        kind = f"{'known ' * self.known}{word}[{one_line(finding.code)}]"
        self.out.append(kind, _DIM if self.known else style)
        head = f": {one_line(finding.summary).rstrip('.')}"
        self.out.append(_wrapped(head, self.screen.width, 4, len(kind)))
        self.out.append("\n" + " " * self.gutter)
        self.out.append("--> ", _FRAME)
        place = summary.place(finding, self.recording)
        where = summary.where(finding)
        location = f"{one_line(str(where))}  " if where else ""
        if not finding.has_steps:
            self.out.append(f"{location}{place}\n")
            return
        steps = numbers.steps(finding.first_step, finding.last_step)
        self.out.append(f"{location}{place}  ({steps})\n")

    def _source(self, part: Excerpt) -> None:
        # the columns are counted after cleaning: an escape, a tab and a CJK letter change them
        def shown(text: str) -> str:
            return encodable(lines(text)[0], self.screen.encoding)

        whole = shown(part.text.rstrip())
        start, end = len(shown(part.text[: part.start])), len(shown(part.text[: part.end]))
        room = self.screen.width - self.gutter - 3
        if cell_len(whole) > room:
            # a line that the terminal folds would part the carets from what they mark
            shift = max(0, min(start - room // 4, len(whole) - room))
            whole = whole[shift : shift + room]
            start, end = start - shift, min(end - shift, len(whole))
        before, marked = cell_len(whole[:start]), cell_len(whole[start:end])
        self._bar()
        self._bar(whole, part.line)
        caret = "^" * max(1, marked)
        self._bar(" " * before, end="")
        self.out.append(f"{caret}\n", LEVELS[self.finding.severity][1])
        self._bar()

    def _facts(self) -> None:
        finding = self.finding
        if finding.evidence:
            pieces = summary.measured(finding)
            left = len(pieces) - SHOWN
            if left > 1:
                pieces = [*pieces[:SHOWN], f"{left} more in the report"]
            self._fact("measured", "; ".join(pieces))
        if finding.origin:
            origin = finding.origin
            where = f" at {one_line(str(origin.location))}" if origin.location else ""
            inside = f" in {one_line(origin.module)}" if origin.module else ""
            what = f"{one_line(origin.operation)}, " if origin.operation else "the data, "
            what = what if origin.operation or origin.phase == "input" else ""
            self._fact("origin", f"{what}{origin.phase}{inside}{where}")
        if finding.why:
            self._fact("note", one_line(finding.why))
        if finding.causes:
            self._fact("note", f"most likely cause: {one_line(finding.causes[0])}")
        more = (*finding.modules[1:], *finding.also)
        if more:
            layers = numbers.plural(len(more), "more layer", "more layers")
            self._fact("note", f"{layers} with the same cause: {summary.others(more)}")
        judged = f"{one_line(finding.name)}, {finding.severity}; confidence: {finding.confidence}"
        self._fact("rule", f"{judged}; known: in the baseline" if self.known else judged)

    def _fact(self, key: str, text: str) -> None:
        self.out.append(f"{' ' * self.gutter} = ", _FRAME)
        self.out.append(f"{key}:", "bold")
        indent = self.gutter + len(key) + 5
        self.out.append(_wrapped(f" {text}", self.screen.width, indent, indent - 1) + "\n")

    def _help(self, fix: Fix) -> None:
        self.out.append("help:", _HELP)
        cost = f"; {one_line(fix.cost)}" if fix.cost else ""
        words = f" {one_line(fix.title)} ({summary.applicability(fix)}{cost}; {summary.tried(fix)})"
        self.out.append(_wrapped(words, self.screen.width, 6, 5) + "\n")
        if self.changes:
            self._hunk()
        elif fix.snippet:
            self._bar()
            code = lines(fix.snippet.rstrip())
            for line in code[:_SNIPPET_LINES]:
                self._bar(line)
            if len(code) > _SNIPPET_LINES:
                self._bar(f"... {numbers.plural(len(code) - _SNIPPET_LINES, 'more line')}")
            self._bar()
        for other in self.finding.fixes[1:]:
            words = f" {one_line(other.title)} ({summary.tried(other)})"
            self.out.append("or:", _HELP)
            self.out.append(_wrapped(words, self.screen.width, 4, 3) + "\n")

    def _hunk(self) -> None:
        location = summary.where(self.finding)
        if self.path and not (location and Path(location.file) == Path(self.path)):
            self.out.append(f"{' ' * self.gutter}--> ", _FRAME)
            self.out.append(f"{one_line(self.path)}\n")
        self._bar()
        for change in self.changes:
            sign = "|" if change.sign == " " else change.sign
            self.out.append(f"{change.line:>{self.gutter}} ", _FRAME)
            self.out.append(f"{sign} {change.text}".rstrip() + "\n", _SIGNS[change.sign])
        if self.left_out:
            left = numbers.plural(self.left_out, "more changed line")
            self._bar(f"... {left}")
        self._bar()

    def _bar(self, text: str = "", line: int | None = None, end: str = "\n") -> None:
        number = "" if line is None else str(line)
        self.out.append(f"{number:>{self.gutter}} |", _FRAME)
        self.out.append(f" {text}{end}" if text or not end else end)


def _end(diagnosis: Diagnosis, facts: RunFacts, screen: Screen, report: Path | None) -> Text:
    out = Text()

    def line(text: str, style: str = "", indent: int = 2) -> None:
        out.append(_wrapped(text, screen.width, indent) + "\n", style)

    for key, sentences in (
        ("assumed", diagnosis.recording.assumptions),
        ("limit", diagnosis.recording.limits),
        ("rule failed", diagnosis.errors),
        ("ended early", (facts.interrupted,) if facts.interrupted else ()),
        ("stopped", (diagnosis.failed,) if diagnosis.failed else ()),
    ):
        for sentence in sentences:
            line(f"{key}: {one_line(sentence)}", _DIM)
    for rule, outcome in diagnosis.undecided:
        line(f"undecided: {rule.code} {one_line(rule.name)}: {one_line(outcome.missing)}", _DIM)
    if len(out):
        out.append("\n")
    together = summary.mended(diagnosis)
    if together:
        line(f"all together: {together}", _DIM)
        out.append("\n")
    if not diagnosis.new_findings:
        good = diagnosis.passed and not diagnosis.interrupted
        line(summary.verdict(diagnosis, facts), _GOOD if good else "bold")
    counted = f"{summary.counts(diagnosis)}   ({summary.extent(diagnosis, facts)})"
    line(counted, "bold" * bool(diagnosis.findings))
    ends = []
    if report is not None:
        # a URL is never wrapped: terminals make it clickable only in one piece
        ends.append(f"report: {report.absolute().as_uri()}")
    if diagnosis.findings:
        ends.append(f"explain: gradscope rules {diagnosis.findings[0].code}")
    if ends:
        out.append("       ".join(ends) + "\n")
    return out


def _wrapped(text: str, width: int, indent: int, used: int = 0) -> str:
    """``text`` wrapped at ``width``; ``used`` columns of its first line are taken already."""
    first = "\0" * used  # stands for what is there, so that only textwrap counts columns
    folded = textwrap.fill(
        first + text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return folded[used:]
