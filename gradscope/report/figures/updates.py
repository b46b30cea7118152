"""Updates: how far each step really moved each layer's weights, relative to their size."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose import windows
from gradscope.recording.reader import Recording
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Rows,
    Swatch,
    blank,
    compact,
    power_ticks,
    row_axis,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import colour
from gradscope.report.view.layers import Layers
from gradscope.report.view.numerals import number, percent

BAND = (1e-4, 1e-2)
"""A factor of ten around 1e-3, the size that Stanford's CS231n notes ("Neural Networks Part 3",
section "Ratio of weights:updates") call usual. A rule of thumb; no rule judges by it."""
_HELP = (
    "The norm of what one optimizer step changed over the norm of the weights it changed, measured "
    "on the real step: what a layer feels of its gradient once the optimizer has scaled it.",
    "The dot is the median of the last sampled steps, the bar holds eight tenths of them. The "
    "shaded band is a factor of ten around 1e-3, a rule of thumb (Stanford CS231n notes) and not a "
    "law: fine-tuning lies left of it, the first steps of a run often lie right of it.",
)


def updates_figure(recording: Recording, layers: Layers, marked: frozenset[str]) -> Figure:
    """Update ratio of the largest parameter of each layer."""
    window = windows.last_window(recording, "updates")
    frame = recording.updates
    frame = frame[frame["step"].isin(window) & frame["ratio"].notna()]
    if not len(frame):
        return Figure("updates", "What the weights feel", "No update was recorded.")
    ratios = {int(p): group.to_numpy() for p, group in frame.groupby("parameter_id")["ratio"]}
    moved = (frame["changed"] / frame["looked_at"]).groupby(frame["parameter_id"]).median()
    shown = [layer for layer in layers.layers if layer.parameters[0] in ratios]
    rows = Rows([layer.name for layer in shown], [layer.label for layer in shown], marked)
    quantiles = np.array(
        [np.quantile(ratios[layer.parameters[0]], (0.1, 0.5, 0.9)) for layer in shown]
    )
    zero = quantiles[:, 1] == 0
    with np.errstate(divide="ignore"):
        low, middle, high = np.log10(np.where(quantiles > 0, quantiles, np.nan)).T
    figure = blank(rows.height + 70)
    figure.add_vrect(
        x0=np.log10(BAND[0]), x1=np.log10(BAND[1]), fillcolor=colour("series-quiet"), opacity=0.16,
        line_width=0, layer="below",
    )  # fmt: skip
    figure.add_vline(x=-3, line={"color": colour("series-quiet"), "width": 1, "dash": "dot"})
    figure.add_trace(
        go.Scatter(
            x=compact(middle), y=list(range(len(shown))), mode="markers",
            marker={"size": 8, "color": colour("series-1")},
            error_x={
                "type": "data", "symmetric": False, "array": compact(high - middle),
                "arrayminus": compact(middle - low), "thickness": 2, "width": 0,
                "color": colour("series-1"),
            },
            text=[number(float(v)) for v in quantiles[:, 1]],
            hovertemplate="%{text}<extra>update ratio</extra>",
        )
    )  # fmt: skip
    seen = np.concatenate([low, high, [-4.0, -2.0]])
    ends = float(np.nanmin(seen)) - 0.2, float(np.nanmax(seen)) + 0.2
    if zero.any():
        figure.add_trace(
            go.Scatter(
                x=[ends[0] + 0.1] * int(zero.sum()), y=np.flatnonzero(zero).tolist(), mode="text",
                text=["did not move"] * int(zero.sum()), textposition="middle right",
                textfont={"color": colour("text")}, hoverinfo="skip",
            )
        )  # fmt: skip
    figure.update_xaxes(
        title_text="update ratio: step over weights", range=list(ends), **power_ticks(*ends, 7)
    )
    row_axis(figure, rows)
    return Figure(
        key="updates",
        title="What the weights feel",
        reading=_reading(rows.labels, quantiles[:, 1]),
        help=_HELP,
        table=NumberTable(
            ("layer", "10 % of steps below", "median ratio", "10 % above", "elements that moved"),
            tuple(
                (layer.label, *(number(float(v)) for v in row),
                 percent(float(moved[layer.parameters[0]])))
                for layer, row in zip(shown, quantiles, strict=True)
            ),
        ),
        plot=figure,
        legend=(
            Swatch("series-1", f"median of the last {plural(len(window), 'sampled step')}", "dot"),
            Swatch("series-quiet", "1e-4 to 1e-2: a rule of thumb, not a law", "band"),
        ),
        data=rows.data,
    )  # fmt: skip


def _reading(names: list[str], middle: np.ndarray) -> str:
    still = [name for name, value in zip(names, middle, strict=True) if value == 0]
    if still:
        others = f" and {plural(len(still) - 1, 'more layer')}" if len(still) > 1 else ""
        return f"The optimizer's last steps did not move {still[0]}{others} at all."
    small, large = int(middle.argmin()), int(middle.argmax())
    return (
        f"One step changes {names[small]} by {number(float(middle[small]))} of its size, the "
        f"least, and {names[large]} by {number(float(middle[large]))}, the most."
    )
