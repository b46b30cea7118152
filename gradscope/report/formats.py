"""The formats in which a diagnosis can be written, and which of them a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.errors import UsageError

if TYPE_CHECKING:
    from gradscope.diagnose.diagnosis import Diagnosis
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


def _by(module: str) -> Callable[[Diagnosis], str]:
    """``render`` of a module of this package, which is imported when it is called.

    plotly, jinja2 and pandas take longer to import than most formats take to write, and under
    ``gradscope run`` no library is imported before the script.
    """

    def render(diagnosis: Diagnosis) -> str:
        text: str = import_module(f"gradscope.report.{module}").render(diagnosis)
        return text

    return render


FORMATS: tuple[Format, ...] = (
    Format("full", ".txt", _by("terminal")),
    Format("concise", None, _by("concise")),
    Format("json", ".json", _by("json")),
    Format("sarif", ".sarif", _by("sarif")),
    Format("junit", ".xml", _by("junit")),
    Format("github", None, _by("github")),
    Format("markdown", ".md", _by("markdown")),
    Format("html", ".html", _by("html")),
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
        from gradscope.report import terminal

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
