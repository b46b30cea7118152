"""A running training as a page that the browser loads anew every few seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

import gradscope
from gradscope.diagnose.finding import Finding
from gradscope.diagnose.now import Now
from gradscope.report import live_view, page_assets, page_parts, theme
from gradscope.report.clean import one_line
from gradscope.report.escape import scrub
from gradscope.report.view.numerals import number
from gradscope.report.view.sparkline import Line, sparkline


def render(now: Now, findings: Sequence[Finding] | None, name: str, every: int) -> str:
    """The page.

    Args:
        now: how the training stands.
        findings: what the rules say so far; None: not judged yet.
        name: of the run.
        every: seconds after which the browser loads it again; it stops when the run is over.
    """
    made = page_parts.environment().get_template("live.html.j2")
    kinds = {"running": "note", "finished": "passed", "interrupted": "warning"}
    css = theme.style_sheet() + page_assets.styles()
    return made.render(
        version=gradscope.__version__, css=Markup(css), name=scrub(one_line(name)),
        target=scrub(one_line(now.target)), status=live_view.status(now), over=now.over,
        kind=kinds.get(now.status, "critical"), every=every, terms=live_view.terms(now),
        curves=[
            (label, chart)
            for label, points in (("Loss", now.losses), ("Gradient norm", now.norms))
            if (chart := _chart(label, points))
        ],
        weights=[
            (w.name, number(w.gradient), number(w.ratio), w.state) for w in now.worst
        ],
        sampled=now.sampled, findings=findings, alarms=list(reversed(now.alarms))[:20],
        lost=now.lost, when=live_view.when,
    ) + "\n"  # fmt: skip


def _chart(label: str, points: Sequence[tuple[int, float]]) -> Markup:
    steps = np.array([step for step, _ in points], float)
    values = np.array([value for _, value in points], float)
    positive = values > 0
    logs = np.log10(values, where=positive, out=np.full_like(values, math.nan))
    return sparkline(steps, [Line(label, logs, "line")], f"{label} over the steps")
