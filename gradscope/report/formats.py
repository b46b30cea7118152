"""The formats in which a diagnosis can be written, and which of them a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.errors import UsageError
from gradscope.report import concise, github, json, junit, markdown, sarif, terminal
from gradscope.report.screen import Screen


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: what ``--format`` calls it.
        suffix: the suffix of a file that holds it; None where no suffix asks for it.
        render: makes the text, which ends with a line break.
    """

    name: str
    suffix: str | None
    render: Callable[[Diagnosis], str]


def _html(diagnosis: Diagnosis) -> str:
    # plotly and jinja2 take longer to import than the other formats take to write
    from gradscope.report import html

    return html.render(diagnosis)


FORMATS: tuple[Format, ...] = (
    Format("full", ".txt", terminal.render),
    Format("concise", None, concise.render),
    Format("json", ".json", json.render),
    Format("sarif", ".sarif", sarif.render),
    Format("junit", ".xml", junit.render),
    Format("github", None, github.render),
    Format("markdown", ".md", markdown.render),
    Format("html", ".html", _html),
)


def render(
    diagnosis: Diagnosis,
    format: str,
    *,
    screen: Screen | None = None,
    report: Path | None = None,
) -> str:
    """``diagnosis`` in the format called ``format``.

    Args:
        diagnosis: what to write.
        format: a name in FORMATS.
        screen: for ``full`` only: what it is written to (``screen.screen_of(stream)``).
        report: for ``full`` only: the HTML page whose URL it shows.

    Raises:
        UsageError: there is no such format.
    """
    if format == "full":
        return terminal.render(diagnosis, screen=screen, report=report)
    for known in FORMATS:
        if known.name == format:
            return known.render(diagnosis)
    names = ", ".join(known.name for known in FORMATS)
    raise UsageError(f"there is no format {format!r}", hint=f"take one of {names}")


def format_for(path: str | Path) -> str:
    """The name of the format that ``path``'s suffix asks for, in any case of letters.

    Raises:
        UsageError: the suffix stands for no format.
    """
    suffix = Path(path).suffix.lower()
    for known in FORMATS:
        if known.suffix == suffix and suffix:
            return known.name
    suffixes = ", ".join(f"{known.suffix} ({known.name})" for known in FORMATS if known.suffix)
    seen = f"the suffix {suffix!r} stands for no format" if suffix else "the name has no suffix"
    raise UsageError(seen, where=str(path), hint=f"take one of {suffixes}, or give --format")
