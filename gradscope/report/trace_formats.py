"""The formats in which a trace can be written."""

from __future__ import annotations

from pathlib import Path

from gradscope.anatomy.facts import Anatomy
from gradscope.errors import UsageError
from gradscope.report import formal, trace_checks, trace_json, trace_text
from gradscope.report.formats import FORMATS, format_for
from gradscope.report.screen import Screen

__all__ = ["format_for", "render"]


def render(
    anatomy: Anatomy,
    format: str,
    *,
    screen: Screen | None = None,
    report: Path | None = None,
) -> str:
    """A trace in the format called ``format``.

    Args:
        anatomy: what to write.
        format: a name in ``formats.FORMATS``.
        screen: for ``full`` only: what it is written to.
        report: for ``full`` only: the page whose URL it shows.

    Raises:
        UsageError: there is no such format.
    """
    checks = trace_checks.checks(anatomy)
    if format == "full":
        return trace_text.terminal(anatomy, screen=screen, report=report)
    if format == "concise":
        return trace_text.concise(anatomy)
    if format == "json":
        return trace_json.render(anatomy)
    if format == "markdown":
        return trace_text.markdown(anatomy)
    if format == "junit":
        return formal.junit(f"gradscope trace {anatomy.target}", checks)
    if format == "github":
        return formal.github(trace_checks.verdict(anatomy), checks)
    if format == "sarif":
        return formal.sarif("trace", checks)
    if format == "html":
        # plotly and jinja2 take longer to import than the other formats take to write
        from gradscope.report import trace_html

        return trace_html.render(anatomy)
    names = ", ".join(known.name for known in FORMATS)
    raise UsageError(f"there is no format {format!r}", hint=f"take one of {names}")
