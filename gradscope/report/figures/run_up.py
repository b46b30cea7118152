"""The run-up: which layer's gradient grew first before the first NaN or Inf."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose.layer_growth import Growth, end_of, layer_growth
from gradscope.recording.reader import Recording
from gradscope.report.escape import plot_text
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Swatch,
    blank,
    compact,
    power_ticks,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import colour
from gradscope.report.view.numerals import number

SHOWN = 6
"""Parameters that are drawn: those that grew first, else those with the largest gradients."""
KEY = "runup"
TITLE = "The steps before the first NaN or Inf"
_HELP = (
    "Each line is the root mean square of one parameter's gradient over the last steps before the "
    "first non-finite one, on a logarithmic scale: a straight rise is a constant factor per step.",
    "A gradient has grown where it left the band of its own earlier steps and stayed above it to "
    "the end. Sampled steps show the whole gradient, the steps between a few of its elements.",
)


def run_up_figure(recording: Recording) -> Figure:
    """The last steps of the gradients that grew first; without a plot where nothing ended."""
    end = end_of(recording)
    if end is None:
        return Figure(KEY, TITLE, "Every value that was looked at is finite: there is no run-up.")
    growths = layer_growth(recording, end)
    if not growths:
        return Figure(KEY, TITLE, "Too few steps came before it to show a run-up.")
    grown = [g for g in growths if g.began is not None]
    shown = (grown or sorted(growths, key=lambda g: -g.rms[-1]))[:SHOWN]
    figure = blank(280)
    low = high = 0.0
    for index, growth in enumerate(reversed(shown)):
        logs = np.log10(np.array(growth.rms))
        low, high = (
            (float(logs.min()), float(logs.max()))
            if index == 0
            else (min(low, float(logs.min())), max(high, float(logs.max())))
        )
        first = growth is shown[0]
        figure.add_trace(
            go.Scatter(
                x=list(growth.steps), y=compact(logs), mode="lines+markers",
                line={
                    "color": colour("series-1" if first else "series-quiet"),
                    "width": 3 if first else 1.5,
                },
                marker={"size": 5 if first else 3},
                name=plot_text(growth.parameter),
                text=[number(value) for value in growth.rms],
                hovertemplate=f"step %{{x}}: %{{text}}<extra>{plot_text(growth.parameter)}</extra>",
            )
        )  # fmt: skip
    figure.add_vline(x=end, line={"color": colour("critical"), "width": 2, "dash": "dot"})
    ends = low - 0.3, high + 0.3
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="RMS of the gradient", range=list(ends), **power_ticks(*ends, 6))
    return Figure(
        key=KEY,
        title=TITLE,
        reading=_reading(grown, shown, end),
        help=_HELP,
        table=NumberTable(
            ("parameter", "began to grow", "factor per step", "times its earlier size", "last"),
            tuple(_row(growth) for growth in shown),
        ),
        plot=figure,
        legend=(
            Swatch("series-1", shown[0].parameter, "line"),
            Swatch("series-quiet", f"{plural(len(shown) - 1, 'other parameter')}", "line"),
            Swatch("critical", f"step {end}: the first NaN or Inf", "dotted-line"),
        ),
    )


def _row(growth: Growth) -> tuple[str, ...]:
    began = "did not grow" if growth.began is None else f"step {growth.began}"
    factor = "" if growth.began is None else number(growth.factor)
    return growth.parameter, began, factor, number(growth.times), number(growth.rms[-1])


def _reading(grown: list[Growth], shown: list[Growth], end: int) -> str:
    if not grown:
        return (
            f"No gradient grew before step {end}: the NaN or Inf came without a run-up, from an "
            "operation or from the data."
        )
    first = grown[0]
    others = len([g for g in grown if g.began == first.began]) - 1
    also = f", with {plural(others, 'other')}" if others else ""
    return (
        f"{shown[0].parameter} grew first{also}: from step {first.began} by a factor of "
        f"{number(first.factor)} per step, to {number(first.times)} times its earlier size."
    )
