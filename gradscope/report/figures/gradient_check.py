"""Gradient check: error of the difference quotient against its step, and how far backward is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.recording.reader import Recording
from gradscope.report.clean import one_line
from gradscope.report.escape import plot_text
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Swatch,
    blank,
    compact,
    power_ticks,
    shortened,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import colour
from gradscope.report.view.numerals import number

CURVES = 4
"""Curves that can be told apart in one figure; the rest are in the table."""
ROWS = 400
"""Rows of the table; a model may have thousands of tensors."""
LOWEST = 1e-16
"""Relative error drawn for what is none at all."""
_COLOURS = ("series-1", "series-2", "series-3", "series-4")
_HELP = (
    "The line is the error of the difference quotient itself, against the step that it was taken "
    "with: it falls while a smaller step follows the function better, and rises again where "
    "rounding takes over. Its lowest point is how well the true derivative is known.",
    "The dashed line is how far the backward pass is from that value. Where it lies far above the "
    "lowest point of the curve, the backward pass is wrong, whatever the step.",
    "All is relative to the derivative along one random direction; the step is relative to the "
    "size of the tensor.",
)


def gradient_check_figure(recording: Recording) -> Figure:
    """Curves of the wrong tensors, and a table of all."""
    rows = recording.gradchecks
    title = "Backward passes against finite differences"
    if rows.empty:
        return Figure("gradcheck", title, "No backward pass was compared with finite differences.")
    names = recording.module_names
    wrong = rows[rows["verdict"].isin(["wrong", "by-design"])]
    curves = [
        curve
        for _, row in wrong.iterrows()
        if (curve := _curve(row, names.get(int(row["module"]), ""))) is not None
    ]
    figure = _drawn(curves[:CURVES]) if curves else None
    listed = rows.sort_values(
        "verdict", key=lambda v: v.map({"wrong": 0, "by-design": 1, "inconclusive": 2}).fillna(3),
        kind="stable",
    )  # fmt: skip
    left = len(curves) - CURVES
    reduced = [f"{left} more curves are left out" if left > 0 else ""]
    if len(listed) > ROWS:
        reduced.append(f"the table has the first {ROWS} of {len(listed):,} tensors")
    return Figure(
        key="gradcheck",
        title=title,
        reading=_reading(rows, names),
        help=_HELP if figure is not None else _HELP[2:],
        table=NumberTable(
            ("tensor", "verdict", "backward", "difference quotient", "error bar",
             "smallest fault seen (99 %)"),
            tuple(_cells(row, names) for _, row in listed.head(ROWS).iterrows()),
        ),
        plot=figure,
        legend=(
            *(
                Swatch(_COLOURS[i % len(_COLOURS)], name, "line")
                for i, (name, *_) in enumerate(curves[:CURVES])
            ),
            Swatch("muted", "how far the backward pass is off", "dash"),
        )
        if figure is not None
        else (),
        reduced="; ".join(text for text in reduced if text),
    )  # fmt: skip


def _curve(row: Any, module: str) -> tuple[str, list[float], list[float], float] | None:
    """Name, steps, relative errors of the quotient, relative error of the backward pass."""
    detail = row["detail"] if isinstance(row["detail"], dict) else {}
    steps = [(float(h), float(v)) for h, v in detail.get("steps") or [] if _number(v)]
    numeric, analytic = float(row["numeric"]), float(row["analytic"])
    if len(steps) < 3 or not math.isfinite(numeric):
        return None
    scale = max(abs(numeric), abs(analytic) if math.isfinite(analytic) else 0.0)
    if not scale:
        return None
    errors = [max(abs(value - numeric) / scale, LOWEST) for _, value in steps]
    # the value is one of the quotients: its own error is what it was said to be
    bar = max(float(row["error_bar"]) / scale, LOWEST)
    errors = [max(error, bar) if error == LOWEST else error for error in errors]
    off = abs(analytic - numeric) / scale if math.isfinite(analytic) else 1.0
    name = f"{one_line(module) or 'the model'}, {one_line(str(row['tensor']))}"
    return name, [h for h, _ in steps], errors, max(off, LOWEST)


def _drawn(curves: list[tuple[str, list[float], list[float], float]]) -> go.Figure:
    figure = blank(300)
    lows, highs, steps_seen = [], [], []
    for position, (name, steps, errors, off) in enumerate(curves):
        tone = colour(_COLOURS[position % len(_COLOURS)])
        x, y = np.log10(steps), np.log10(errors)
        figure.add_trace(
            go.Scatter(
                x=compact(x), y=compact(y), mode="lines+markers", name=plot_text(name),
                line={"color": tone, "width": 2}, marker={"color": tone, "size": 6},
                text=[f"step {number(h)}: {number(e)}" for h, e in zip(steps, errors, strict=True)],
                hovertemplate=f"{plot_text(shortened(name, 40))}<br>%{{text}}<extra></extra>",
            )
        )  # fmt: skip
        level = math.log10(off)
        figure.add_trace(
            go.Scatter(
                x=[float(x.min()), float(x.max())], y=[level, level], mode="lines",
                line={"color": tone, "width": 2, "dash": "dash"}, hoverinfo="skip",
                showlegend=False,
            )
        )  # fmt: skip
        lows.append(min(float(y.min()), level))
        highs.append(max(float(y.max()), level))
        steps_seen += [float(x.min()), float(x.max())]
    across = min(steps_seen) - 0.3, max(steps_seen) + 0.3
    upward = min(lows) - 0.5, max(highs) + 0.5
    figure.update_xaxes(title_text="relative step", range=list(across), **power_ticks(*across, 8))
    figure.update_yaxes(title_text="relative error", range=list(upward), **power_ticks(*upward, 6))
    return figure


def _cells(row: Any, names: Mapping[int, str]) -> tuple[str, ...]:
    detail = row["detail"] if isinstance(row["detail"], dict) else {}
    module = one_line(names.get(int(row["module"]), "")) or "the model"
    kind = f" ({row['kind']})" if isinstance(row["kind"], str) else ""
    seen = detail.get("sees")
    return (
        f"{module}, {one_line(str(row['tensor']))}",
        f"{row['verdict']}{kind}",
        *(number(float(row[key])) if _number(row[key]) else "–"
          for key in ("analytic", "numeric", "error_bar")),
        number(float(seen)) if seen is not None and _number(seen) else "–",
    )  # fmt: skip


def _reading(rows: pd.DataFrame, names: Mapping[int, str]) -> str:
    """What was found, and what the rest means."""
    counts = rows["verdict"].value_counts()
    compared = plural(len(rows), "derivative")
    seen = [d["sees"] for d in rows["detail"] if isinstance(d, dict) and _number(d.get("sees"))]
    means = (
        f" Where it says right, a fault of {number(max(seen))} of the gradient or more would have "
        "been seen with a probability of 99 %, at the point at which the model stood."
        if seen
        else ""
    )
    if counts.get("wrong"):
        modules = {names.get(int(m), "") for m in rows.loc[rows["verdict"] == "wrong", "module"]}
        where = plural(len(modules), "module")
        verb = "is" if counts["wrong"] == 1 else "are"
        return f"{counts['wrong']} of {compared} {verb} wrong, in {where}.{means}"
    if counts.get("right", 0) == len(rows):
        return f"All of {compared} are right.{means}"
    return f"None of {compared} is wrong; {counts.get('right', 0)} are right.{means}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
