"""Noise: how far the gradients of successive steps agree, layer by layer."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose.directions import Direction, directions
from gradscope.recording.reader import Recording
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Rows,
    Swatch,
    blank,
    compact,
    row_axis,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import colour
from gradscope.report.view.layers import Layers
from gradscope.report.view.numerals import percent

TITLE = "Signal and noise"
_HELP = (
    "Each step's gradient is a signal, which all batches share, plus noise, which differs from "
    "batch to batch. The dot is the share of the gradients' size that the last sampled steps have "
    "in common: 100 % for one gradient repeated, 0 % for pure noise, negative where steps undo "
    "each other. The bar is its 95 % interval.",
    "A small share is usual late in a training and with small batches, and no fault by itself: it "
    "means that many steps are needed until the signal adds up, or a larger batch.",
)


def noise_figure(recording: Recording, layers: Layers, marked: frozenset[str]) -> Figure:
    """Signal share of the largest parameter of each layer."""
    found = directions(recording)
    shown = [layer for layer in layers.layers if layer.parameters[0] in found]
    if not shown:
        return Figure("noise", TITLE, "Too few gradients were sketched to tell signal from noise.")
    own = [found[layer.parameters[0]] for layer in shown]
    rows = Rows([layer.name for layer in shown], [layer.label for layer in shown], marked)
    signal = np.array([d.signal for d in own])
    error = np.array([d.error for d in own])
    low = float(min(-0.05, (signal - error).min() - 0.05))
    figure = blank(rows.height + 70)
    figure.add_vline(x=0, line={"color": colour("series-quiet"), "width": 1, "dash": "dot"})
    figure.add_trace(
        go.Scatter(
            x=compact(signal, 3), y=list(range(len(shown))), mode="markers",
            marker={"size": 8, "color": colour("series-1")},
            error_x={"type": "data", "array": compact(error, 3), "thickness": 2, "width": 0,
                     "color": colour("series-1")},
            text=[_interval(d) for d in own],
            hovertemplate="%{text}<extra>in common</extra>",
        )
    )  # fmt: skip
    ticks = [tick / 100 for tick in (-100, -50, 0, 25, 50, 75, 100) if tick / 100 >= low]
    figure.update_xaxes(
        title_text="share that the steps have in common",
        range=[low, max(1.02, float((signal + error).max()) + 0.05)],
        tickmode="array", tickvals=ticks, ticktext=[percent(tick) for tick in ticks],
    )  # fmt: skip
    row_axis(figure, rows)
    return Figure(
        key="noise",
        title=TITLE,
        reading=_reading(rows.labels, own),
        help=_HELP,
        table=NumberTable(
            ("layer", "in common", "95 % interval", "cosine of steps that follow", "steps"),
            tuple(
                (layer.label, percent(d.signal), _interval(d), f"{d.consecutive:.2f}", str(d.steps))
                for layer, d in zip(shown, own, strict=True)
            ),
        ),
        plot=figure,
        legend=(
            Swatch(
                "series-1", f"share over the last {plural(own[0].steps, 'sampled step')}", "dot"
            ),
            Swatch("series-quiet", "0 %: nothing but noise", "dotted-line"),
        ),
        data=rows.data,
    )


def _interval(direction: Direction) -> str:
    low, high = direction.signal - direction.error, direction.signal + direction.error
    return f"{percent(low)} to {percent(high)}"


def _reading(names: list[str], found: list[Direction]) -> str:
    noisy = [name for name, d in zip(names, found, strict=True) if d.signal - d.error <= 0]
    if len(noisy) == len(names):
        return "No layer's gradients have a direction that stands out from their noise."
    most = max(range(len(names)), key=lambda i: found[i].signal)
    text = (
        f"The gradients of {names[most]} agree most: successive steps have "
        f"{percent(found[most].signal)} in common"
    )
    if not noisy:
        return f"{text}, and every layer's stand out from their noise."
    others = f" and {plural(len(noisy) - 1, 'more layer')}" if len(noisy) > 1 else ""
    return f"{text}; those of {noisy[0]}{others} do not stand out from their noise."
