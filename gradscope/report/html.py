"""The report: one HTML file that needs nothing else, now or in ten years.

Text, tables and sparklines are in the markup and read without a script. The figures are plotly
figures, packed beside the packed plotly bundle; the page's script unpacks both once and draws what
is in view first, the rest while the browser is idle.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

import gradscope
from gradscope import rules as own_rules
from gradscope.anatomy.facts import Anatomy
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import SEVERITIES
from gradscope.diagnose.rule import Rule
from gradscope.report import json, page_assets, page_parts, summary, theme, trace_html
from gradscope.report.clean import one_line
from gradscope.report.escape import script_json, scrub, scrub_all
from gradscope.report.figures import all_figures
from gradscope.report.run_facts import run_facts
from gradscope.report.view import cards, checks, facts, layer_table, prose
from gradscope.report.view.layers import layers_of
from gradscope.report.view.naming import Names
from gradscope.report.view.trials import mended_view
from gradscope.rules.registry import all_rules

SECTIONS = (
    ("findings", "Findings"),
    ("gradients", "Gradients"),
    ("training", "Training"),
    ("checks", "Checks"),
    ("layers", "Layers"),
    ("explain", "One step"),
    ("reading", "Reading"),
    ("reproduce", "Repeat"),
)
"""The sections of the page in order, after the verdict."""
BACKWARD = ("backward", "Backward passes")
"""The section of a finite-difference check, after the findings; only where one was made."""
LAYER_COLUMNS = (
    ("order", "#", True),
    ("name", "Layer", False),
    ("findings", "Findings", False),
    ("type", "Type", False),
    ("weights", "Weights", True),
    ("gradient", "Gradient RMS", True),
    ("ratio", "Update ratio", True),
    ("zeros", "Exact zeros", True),
    ("state", "State", False),
)
"""Columns of the layer table: key, heading, whether its cells are numbers."""


def render(diagnosis: Diagnosis, *, assets: str = "inline") -> str:
    """The page as text.

    Names and messages from the user's code are escaped wherever they stand, and absolute paths are
    made relative or shortened.

    Args:
        diagnosis: what to show.
        assets: "inline" for one file; "linked" for hosts that forbid scripts inside a page: the
            files of ``page_assets.linked_files`` have to lie beside it.
    """
    context = _context(diagnosis)
    if assets == "linked":
        context |= {"linked": page_assets.linked(), "bundle": ""}
    return page_parts.environment().get_template("page.html.j2").render(context) + "\n"


def _context(diagnosis: Diagnosis) -> dict[str, Any]:
    data = json.document(diagnosis)
    diagnosis = Names.of(diagnosis.recording).diagnosis(diagnosis)
    run = run_facts(diagnosis.recording)
    layers = layers_of(diagnosis.recording)
    codes = {finding.code for finding in diagnosis.findings}
    rules = [rule for rule in all_rules(own_rules.RULES) if rule.code in codes]
    pages = {rule.code: _page_of(rule) for rule in rules}
    found = cards.cards(diagnosis, layers, pages)
    figures = all_figures(diagnosis, layers)
    text, _, closest = summary.verdict(diagnosis, run).partition("; closest to its limit: ")
    verdict = prose.sentence(text)
    target = scrub(one_line(diagnosis.target))
    return {
        "title": f"{target or 'gradscope'}: {verdict.striptags()}",
        "version": gradscope.__version__,
        "plotly": page_assets.PLOTLY_VERSION,
        "linked": None,
        "css": Markup(theme.style_sheet() + page_assets.styles()),
        "boot": Markup(page_assets.text(page_assets.BOOT)),
        "script": Markup(page_assets.scripts()),
        "bundle": Markup(page_assets.plotly_bundle() if any(f.plot for f in figures) else ""),
        "data": Markup(script_json(scrub_all(data))),
        "payload": Markup(page_parts.packed(figures)),
        "sections": _sections(diagnosis),
        "command": diagnosis.command,
        "target": target,
        "verdict": verdict,
        "closest": prose.sentence(closest),
        "pill": _pill(diagnosis),
        "counts": _counts(diagnosis),
        "first": cards.do_first(found),
        "strip": facts.strip(diagnosis.recording, run),
        "banners": facts.banners(diagnosis, run),
        "findings": found,
        "mended": mended_view(diagnosis.mended),
        "no_findings": _no_findings(diagnosis),
        "figures": {figure.key: figure for figure in figures},
        "clumps": checks.clumps(diagnosis),
        "layers": layer_table.layer_rows(diagnosis, layers, found),
        "layer_columns": LAYER_COLUMNS,
        "severity_words": cards.SEVERITY.items(),
        "confidence_words": cards.CONFIDENCE.items(),
        "pages": [
            {"code": rule.code, "name": rule.name, "page": prose.page(pages[rule.code])}
            for rule in rules
            if pages[rule.code]
        ],
        "reproduce": scrub(diagnosis.reproduce),
        "versions": facts.versions(diagnosis.recording),
        **_explained(diagnosis),
    }


def _explained(diagnosis: Diagnosis) -> dict[str, Any]:
    if not isinstance(diagnosis.explained, Anatomy):
        return {"explained": None}
    return {"explained": True, **trace_html.context(diagnosis.explained)}


def _sections(diagnosis: Diagnosis) -> tuple[tuple[str, str], ...]:
    """The sections that this run fills: a finite-difference check has no training to show."""
    compared = () if diagnosis.recording.gradchecks.empty else (BACKWARD,)
    alone = diagnosis.command == "gradcheck"
    first, *rest = (
        section
        for section in SECTIONS
        if not (section[0] == "explain" and diagnosis.explained is None)
        and not (section[0] in ("gradients", "training") and alone)
    )
    return first, *compared, *rest


def _page_of(rule: type[Rule]) -> str:
    try:
        return rule.page()
    except FileNotFoundError:
        # a rule of another package may come without a page; that must not cost the report
        return ""


def _pill(diagnosis: Diagnosis) -> dict[str, str]:
    """The verdict in the bar: the worst outcome's shape, word and colour."""
    new = diagnosis.new_findings
    number = len(new)
    if number:
        text = f"{number} {'new ' * bool(diagnosis.known)}finding{'s' if number > 1 else ''}"
        return {"kind": new[0].severity, "text": text, "target": "findings"}
    if diagnosis.failed or diagnosis.interrupted:
        return {"kind": "warning", "text": "stopped early", "target": "verdict"}
    if diagnosis.findings:
        return {"kind": "note", "text": f"{len(diagnosis.findings)} known", "target": "findings"}
    if not diagnosis.passed:
        return {"kind": "undecided", "text": "undecided", "target": "checks"}
    return {"kind": "passed", "text": "no finding", "target": "checks"}


def _counts(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    plurals = {"critical": "critical", "warning": "warnings", "note": "notes"}
    found: list[dict[str, Any]] = []
    for severity in SEVERITIES:
        number = sum(finding.severity == severity for finding in diagnosis.findings)
        if number:
            word = severity if number == 1 else plurals[severity]
            found.append({"kind": severity, "number": number, "word": word, "target": "findings"})
    for kind, word, outcomes in (
        ("passed", "passed", diagnosis.passed),
        ("undecided", "undecided", diagnosis.undecided),
        ("absent", "not applicable", diagnosis.not_applicable),
    ):
        if outcomes:
            found.append({"kind": kind, "number": len(outcomes), "word": word, "target": kind})
    return found


def _no_findings(diagnosis: Diagnosis) -> str:
    if diagnosis.passed:
        return (
            "None. What was looked at, and how far from its limit it was, is listed under Checks."
        )
    return "None, but no check could be made either: see what was missing under Checks."
