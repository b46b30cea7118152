"""The formats in which a comparison can be written."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

import gradscope
from gradscope.diagnose.apart.outcome import Comparison
from gradscope.errors import UsageError
from gradscope.report import compare_view, formal, section_text
from gradscope.report.clean import encodable, one_line
from gradscope.report.formats import FORMATS, format_for
from gradscope.report.numbers import exact
from gradscope.report.screen import Screen
from gradscope.report.section_text import cell, plain, wrapped
from gradscope.report.terminal import coloured

__all__ = ["format_for", "render"]


def render(
    found: Comparison,
    format: str,
    *,
    screen: Screen | None = None,
    report: Path | None = None,
    exit_code: int = 0,
) -> str:
    """A comparison in the format called ``format``.

    Args:
        found: what to write.
        format: a name in ``formats.FORMATS``.
        screen: for ``full`` only: what it is written to.
        report: for ``full`` only: the page whose URL it shows.
        exit_code: for ``json``: what the command exits with.

    Raises:
        UsageError: there is no such format.
    """
    if format == "full":
        return terminal(found, screen or Screen(), report)
    if format == "concise":
        return concise(found)
    if format == "json":
        value = document(found, exit_code)
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format == "markdown":
        return markdown(found)
    title = f"gradscope compare: {plain(found.verdict)}"
    if format == "junit":
        return formal.junit(title, checks(found))
    if format == "github":
        return formal.github(title, checks(found))
    if format == "sarif":
        return formal.sarif("compare", checks(found))
    if format == "html":
        # plotly and jinja2 take longer to import than the other formats take to write
        from gradscope.report import compare_html

        return compare_html.render(found, document(found, exit_code))
    names = ", ".join(known.name for known in FORMATS)
    raise UsageError(f"there is no format {format!r}", hint=f"take one of {names}")


def terminal(found: Comparison, screen: Screen, report: Path | None) -> str:
    """All sections, then the verdict."""
    out = Text()
    for term, value in compare_view.facts(found):
        out.append(f"{one_line(term)}: ", "bold")
        out.append(f"{value}\n")
    section_text.terminal(out, compare_view.sections(found), screen.width)
    out.append("\n")
    for sentence in found.regressions:
        out.append("regression: ", "bold red")
        out.append(f"{wrapped(plain(sentence), screen.width - 12, 4)}\n")
    style = "bold red" if found.regressions else "bold green" if not found.apart else "bold yellow"
    out.append(f"{wrapped(plain(found.verdict), screen.width, 0)}\n", style)
    if report is not None:
        out.append(f"report: {report.resolve().as_uri()}\n")
    return encodable(coloured(out) if screen.colour else out.plain, screen.encoding)


def concise(found: Comparison) -> str:
    """The verdict, then one line for each changed layer, changed finding and regression."""
    lines = [plain(found.verdict)]
    lines += [
        f"{d.layer or 'the model'}: {d.name} {compare_view.times(d.times)} since step {d.since}"
        for d in compare_view.listed(found)
    ]
    lines += [plain(sentence) for _, sentence in found.structure]
    lines += [
        f"{c.kind}: {c.finding.code} {c.finding.name} {c.finding.layer}"
        for c in found.changes
        if c.kind != "same"
    ]
    lines += [f"regression: {plain(sentence)}" for sentence in found.regressions]
    return "\n".join(map(one_line, lines)) + "\n"


def markdown(found: Comparison) -> str:
    """GitHub's Markdown, for a comment on a change."""
    out = [f"## {cell(found.verdict[:1].upper() + found.verdict[1:])}", ""]
    out += [f"- **{cell(term)}**: {cell(value)}" for term, value in compare_view.facts(found)]
    out += [f"- **Regression**: {cell(sentence)}" for sentence in found.regressions]
    out += section_text.markdown(compare_view.sections(found))
    return "\n".join(out).rstrip() + "\n"


def document(found: Comparison, exit_code: int) -> dict[str, Any]:
    """The comparison as a JSON value."""
    plain_value = _json(asdict(found))
    plain_value.pop("curves")
    plain_value.pop("losses")
    return {
        "schema_version": 1,
        "tool": {"name": "gradscope", "version": gradscope.__version__},
        "command": "compare",
        "exit_code": exit_code,
        "apart": found.apart,
        **plain_value,
    }


def checks(found: Comparison) -> list[formal.Check]:
    """Regressions as errors, other partings as notes; one that holds where there is neither."""
    made = [
        formal.Check("regression", plain(sentence)[:120], plain(sentence), "error")
        for sentence in found.regressions
    ]
    for layer in found.layers:
        strongest = [d for d in found.differences if d.own and d.layer.startswith(layer)]
        if strongest:
            worst = max(strongest, key=lambda d: d.strength)
            text = (
                f"{layer or 'the model'} parts since step {worst.since}: {worst.name} "
                f"{compare_view.times(worst.times)} in B"
            )
            made.append(formal.Check("parting", layer or "the model", text, "note"))
    return made or [formal.Check("parting", "all layers", plain(found.verdict))]


def _json(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else exact(value)
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value
