"""Number format: the binary exponents of each layer's gradient against what formats hold."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose import windows
from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES
from gradscope.recording.reader import Recording
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Rows,
    Scale,
    Swatch,
    blank,
    compact,
    row_axis,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import CIVIDIS, colour
from gradscope.report.view.layers import Layers
from gradscope.report.view.numerals import percent

_LIMITS: tuple[tuple[int, str, Literal["left", "right"]], ...] = (
    (-126, "float32, bfloat16 min", "left"),
    (-24, "float16 min", "right"),
    (-14, "float16 full", "left"),
    (16, "float16 max", "right"),
)
"""Edge, label, and the end of the label that stands at the line, so that neighbours do not meet."""
_HELP = (
    "Each row is a layer; the colour says which share of its gradient's elements has that binary "
    "exponent, over the last sampled steps. A number whose exponent lies left of a format's "
    "smallest becomes zero in that format.",
    "The lines are the limits of float16 (2^-24 smallest, 2^-14 smallest with full precision, 2^16 "
    "largest) and of float32 and bfloat16 (2^-126). Left of a line means lost in that format, "
    "unless a loss scale moves everything to the right.",
)


def number_format_figure(recording: Recording, layers: Layers, marked: frozenset[str]) -> Figure:
    """The heat map layer by exponent."""
    title = "Room in the number format"
    window = windows.last_window(recording, "gradients")
    frame = recording.gradients
    keep = (frame["step"].isin(window) & (frame["looked_at"] > 0)).to_numpy()
    if not keep.any():
        return Figure("formats", title, "No histogram of the gradients' exponents was recorded.")
    counts = recording.vectors("gradients", "exponents")[keep].astype(np.float64)
    frame = frame[keep]
    row_by_parameter = {p: row for row, layer in enumerate(layers.layers) for p in layer.parameters}
    owners = frame["parameter_id"].map(row_by_parameter)
    known = owners.notna().to_numpy()
    at = owners[known].to_numpy(np.int64)
    bins, looked = np.zeros((len(layers.layers), EXPONENT_BINS)), np.zeros(len(layers.layers))
    zeros = np.zeros(len(layers.layers))
    np.add.at(bins, at, counts[known])
    np.add.at(looked, at, frame["looked_at"].to_numpy()[known])
    np.add.at(zeros, at, np.maximum(frame["zeros"].to_numpy()[known], 0))
    shown = np.flatnonzero(looked > 0)
    share = bins[shown] / looked[shown, None]
    zero_share = zeros[shown] / looked[shown]
    rows = Rows([layers.names[i] for i in shown], [layers.labels[i] for i in shown], marked)
    first, last = _span(share)
    top = max(float(100 * share.max()), 1.0)
    figure = blank(rows.height + 80)
    figure.add_trace(
        go.Heatmap(
            x=list(range(first, last + 1)),
            z=[[v or None for v in row] for row in compact(100 * share[:, first : last + 1], 1)],
            colorscale=[list(stop) for stop in CIVIDIS],
            zmin=0,
            hoverongaps=False,
            hovertemplate="%{z:.1f} % of the elements<extra></extra>",
            zmax=top,
            showscale=False,
        )
    )
    ticks = [edge for edge in EXPONENT_EDGES if edge % 8 == 0 or edge == -126]
    figure.update_xaxes(
        title_text="binary exponent of the element", tickmode="array", showgrid=False,
        range=[first - 0.5, last + 0.5],
        tickvals=[_position(edge) for edge in ticks],
        ticktext=[f"2<sup>{edge}</sup>".replace("-", "\u2212") for edge in ticks],
    )  # fmt: skip
    for edge, label, side in _LIMITS:
        if first <= _position(edge) <= last:
            figure.add_vline(
                x=_position(edge), line={"color": colour("series-2"), "width": 2, "dash": "dash"}
            )
            figure.add_annotation(
                x=_position(edge), y=1, yref="paper", yanchor="bottom", xanchor=side, text=label,
                showarrow=False, font={"size": 11, "color": colour("text")},
            )  # fmt: skip
    row_axis(figure, rows)
    figure.update_layout(margin={"l": 150, "r": 16, "t": 24, "b": 52})
    below = share[:, : EXPONENT_EDGES.index(-24) + 1].sum(axis=1)
    subnormal = share[:, : EXPONENT_EDGES.index(-14) + 1].sum(axis=1) - below
    return Figure(
        key="formats",
        title=title,
        reading=_reading(rows.labels, below, zero_share),
        help=_HELP,
        table=NumberTable(
            ("layer", "below 2^-24: 0 in float16", "2^-24 to 2^-14: imprecise in float16",
             "2^16 and above: Inf in float16", "exactly zero"),
            tuple(
                (name, *(percent(float(v)) for v in values))
                for name, *values in zip(
                    rows.labels, below, subnormal, share[:, -1], zero_share, strict=True
                )
            ),
        ),
        plot=figure,
        scale=Scale(
            "share of a layer's elements",
            tuple((at / top, f"{at:g} %") for at in _scale_marks(top)),
        ),
        legend=(
            Swatch("series-2", "limits of a number format", "dash"),
            Swatch("surface", f"no element, of {plural(len(window), 'sampled step')}"),
        ),
        data={**rows.data, "exponents": [_edges(i) for i in range(EXPONENT_BINS)]},
    )  # fmt: skip


def _edges(column: int) -> tuple[str, str]:
    """Lower and upper edge of a bin as text; the first and the last are open."""
    powers = [f"2^{edge}" for edge in EXPONENT_EDGES]
    return ("0", *powers)[column], (*powers, "Inf")[column]


def _position(edge: int) -> float:
    """Where ``edge`` lies on an axis on which histogram bin ``i`` is centred at ``i``."""
    return EXPONENT_EDGES.index(edge) + 0.5


def _span(share: np.ndarray) -> tuple[int, int]:
    """First and last bin to draw: all that hold elements, and float16's limits for comparison."""
    used = np.flatnonzero(share.sum(axis=0) > 0)
    low = min(int(used.min()) if len(used) else EXPONENT_BINS, EXPONENT_EDGES.index(-24) - 1)
    high = max(int(used.max()) if len(used) else 0, EXPONENT_EDGES.index(-14) + 4)
    return max(0, low), min(EXPONENT_BINS - 1, high + 1)


def _scale_marks(top: float) -> list[float]:
    """Round percentages up to ``top``, three to six of them."""
    stride = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 20, 25) if top / s <= 5)
    return [stride * i for i in range(int(top / stride) + 1)]


def _reading(names: list[str], below: np.ndarray, zeros: np.ndarray) -> str:
    worst = int(below.argmax())
    if below[worst] < 0.01:
        text = "Less than 1 % of any layer's gradient would be lost in float16."
    else:
        text = (
            f"In float16 without a loss scale {percent(float(below[worst]))} of the gradient of "
            f"{names[worst]} would become zero."
        )
    if zeros.max() > 0.01:
        at = int(zeros.argmax())
        text += f" Exactly zero already: {percent(float(zeros[at]))} in {names[at]}."
    return text
