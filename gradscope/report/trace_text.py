"""A trace for a terminal, for Markdown, and as one line a section."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from gradscope.anatomy.facts import Anatomy
from gradscope.report import section_text, trace_view, trace_words
from gradscope.report.clean import encodable, one_line
from gradscope.report.screen import Screen
from gradscope.report.section_text import cell, wrapped
from gradscope.report.terminal import coloured
from gradscope.report.trace_checks import verdict


def terminal(anatomy: Anatomy, *, screen: Screen | None = None, report: Path | None = None) -> str:
    """All sections, then the verdict.

    Args:
        anatomy: what to show.
        screen: width, colour and encoding; None: 100 columns of UTF-8 without colour.
        report: the page that was written, whose URL goes last.
    """
    screen = screen or Screen()
    out = Text()
    for term, value in trace_view.facts(anatomy):
        out.append(f"{term}: ", "bold")
        out.append(f"{wrapped(value, screen.width - len(term) - 2, len(term) + 2)}\n")
    for sentence in anatomy.assumptions:
        out.append(f"{wrapped(f'assumed: {sentence}', screen.width, 0)}\n", "dim")
    section_text.terminal(out, trace_view.sections(anatomy), screen.width)
    good = all(identity.holds for identity in anatomy.identities)
    out.append(f"\n{verdict(anatomy)}\n", "bold green" if good else "bold red")
    if report is not None:
        out.append(f"report: {report.resolve().as_uri()}\n")
    return encodable(coloured(out) if screen.colour else out.plain, screen.encoding)


def concise(anatomy: Anatomy) -> str:
    """One line a section."""
    lines = [*trace_words.lines(anatomy), verdict(anatomy)]
    return "\n".join(f"{one_line(anatomy.target)}: {line}" for line in lines) + "\n"


def markdown(anatomy: Anatomy) -> str:
    """GitHub's Markdown: the same sections, tables as tables."""
    out = [f"## {cell(anatomy.prediction.sentence)}", ""]
    out += [f"- **{term}**: {cell(value)}" for term, value in trace_view.facts(anatomy)]
    out += section_text.markdown(trace_view.sections(anatomy))
    return "\n".join([*out, f"**{verdict(anatomy)}**"]) + "\n"
