"""A comparison as one HTML file: both sides in the same pictures."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

import gradscope
from gradscope.diagnose.apart.outcome import Comparison
from gradscope.report import compare_figures, compare_view, page_assets, page_parts, theme
from gradscope.report.clean import one_line
from gradscope.report.escape import script_json, scrub, scrub_all
from gradscope.report.view import prose


def render(found: Comparison, data: dict[str, Any]) -> str:
    """The page as text; ``data`` is the comparison as JSON."""
    figures = compare_figures.figures(found)
    drawn = any(figure.plot is not None for figure in figures)
    verdict = prose.sentence(found.verdict)
    made = page_parts.environment().get_template("compare.html.j2")
    return made.render(
        title=f"{scrub(one_line(found.a.name))} and {scrub(one_line(found.b.name))}: "
        f"{verdict.striptags()}",
        version=gradscope.__version__, plotly=page_assets.PLOTLY_VERSION,
        css=Markup(theme.style_sheet() + page_assets.styles()),
        boot=Markup(page_assets.text(page_assets.BOOT)), script=Markup(page_assets.scripts()),
        bundle=Markup(page_assets.plotly_bundle() if drawn else ""),
        payload=Markup(page_parts.packed(figures)), data=Markup(script_json(scrub_all(data))),
        sections=compare_view.SECTIONS, pill=_pill(found), verdict=verdict,
        facts=compare_view.facts(found), regressions=found.regressions,
        where=compare_view.where(found), differences=_differences(found),
        made=compare_view.structure(found), changes=_changes(found),
        loss=compare_view.loss(found.loss), loss_figure=figures[0], partings=figures[1:],
        reading=compare_figures.reading(found), notes=found.notes,
        sides=(found.a, found.b),
    ) + "\n"  # fmt: skip


def _pill(found: Comparison) -> dict[str, str]:
    if found.regressions:
        count = len(found.regressions)
        text = f"{count} regression{'s' if count > 1 else ''}"
        return {"kind": "critical", "text": text, "target": "verdict"}
    if found.identical:
        return {"kind": "passed", "text": "the same", "target": "where"}
    if found.apart:
        return {"kind": "note", "text": "they part", "target": "where"}
    return {"kind": "passed", "text": "no more than seeds", "target": "where"}


def _differences(found: Comparison) -> list[dict[str, Any]]:
    tables = [s.tables for s in compare_view.sections(found) if s.key == "where"]
    rows = tables[0][0].rows if tables and tables[0] else ()
    keys = ("layer", "statistic", "times", "limit", "since", "a", "b", "whose")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _changes(found: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "kind": change.kind, "code": change.finding.code, "name": change.finding.name,
            "layer": change.finding.layer, "summary": change.finding.summary,
            "severity": change.finding.severity, "a": compare_view.side_a(change),
            "b": compare_view.side_b(change), "severity_a": change.severity_a,
            "severity_b": change.severity_b,
        }
        for change in found.changes
    ]  # fmt: skip
