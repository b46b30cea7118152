"""Number format: the binary exponents of each layer's gradient against the limits of the formats."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose import windows
from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES
from gradscope.recording.reader import Recording
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Swatch,
    blank,
    compact,
    row_axis,
    rows_height,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import CIVIDIS, colour
from gradscope.report.view.layers import Layers
from gradscope.report.view.numerals import percent

_LIMITS = (
    (-126, "float32, bfloat16: normal", "2<sup>\u2212126</sup>"),
    (-24, "float16: smallest", "2<sup>\u221224</sup>"),
    (-14, "float16: normal", "2<sup>\u221214</sup>"),
    (16, "float16: largest", "2<sup>16</sup>"),
)
_HELP = (
    "Each row is a layer; the colour says which share of its gradient's elements has that binary "
    "exponent, over the last sampled steps. A number whose exponent lies left of a format's smallest "
    "becomes zero in that format.",
    "The lines are the limits of float16 (2^-24 smallest, 2^-14 smallest with full precision, 2^16 "
    "largest) and of float32 and bfloat16 (2^-126). Left of a line means lost in that format, unless "
    "a loss scale moves everything to the right.",
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
    rows = frame["parameter_id"].map(row_by_parameter)
    known = rows.notna().to_numpy()
    at = rows[known].to_numpy(np.int64)
    bins, looked = np.zeros((len(layers.layers), EXPONENT_BINS)), np.zeros(len(layers.layers))
    zeros = np.zeros(len(layers.layers))
    np.add.at(bins, at, counts[known])
    np.add.at(looked, at, frame["looked_at"].to_numpy()[known])
    np.add.at(zeros, at, np.maximum(frame["zeros"].to_numpy()[known], 0))
    shown = np.flatnonzero(looked > 0)
    share = bins[shown] / looked[shown, None]
    zero_share = zeros[shown] / looked[shown]
    names = [layers.layers[row].name for row in shown]
    first, last = _span(share)
    figure = blank(rows_height(len(names)) + 100)
    figure.add_trace(
        go.Heatmap(
            x=list(range(first, last + 1)),
            z=[[v or None for v in row] for row in compact(100 * share[:, first : last + 1], 1)],
            colorscale=[list(stop) for stop in CIVIDIS],
            zmin=0,
            hoverongaps=False,
            hovertemplate="%{z:.1f} % of the elements<extra></extra>",
            colorbar={
                "orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
                "ypad": 24, "xpad": 0, "len": 0.6, "thickness": 10, "outlinewidth": 0,
                "ticksuffix": " %", "nticks": 5,
                "title": {"text": "share of the elements", "side": "top", "font": {"size": 12}},
            },
        )
    )  # fmt: skip
    ticks = [edge for edge in EXPONENT_EDGES if edge % 8 == 0 or edge == -126]
    figure.update_xaxes(
        title_text="binary exponent of the element", tickmode="array", showgrid=False,
        range=[first - 0.5, last + 0.5],
        tickvals=[_position(edge) for edge in ticks],
        ticktext=[f"2<sup>{edge}</sup>".replace("-", "\u2212") for edge in ticks],
    )  # fmt: skip
    for edge, _, _ in _LIMITS:
        if first <= _position(edge) <= last:
            figure.add_vline(
                x=_position(edge), line={"color": colour("series-2"), "width": 2, "dash": "dash"}
            )
    row_axis(figure, names, marked)
    figure.update_layout(margin={"l": 150, "r": 16, "t": 62, "b": 48})
    below = share[:, : EXPONENT_EDGES.index(-24) + 1].sum(axis=1)
    subnormal = share[:, : EXPONENT_EDGES.index(-14) + 1].sum(axis=1) - below
    return Figure(
        key="formats",
        title=title,
        reading=_reading(names, below, zero_share),
        help=_HELP,
        table=NumberTable(
            ("layer", "below 2^-24: 0 in float16", "2^-24 to 2^-14: imprecise in float16",
             "2^16 and above: Inf in float16", "exactly zero"),
            tuple(
                (name, *(percent(float(v)) for v in values))
                for name, *values in zip(
                    names, below, subnormal, share[:, -1], zero_share, strict=True
                )
            ),
        ),
        plot=figure,
        legend=(
            Swatch("series-2", _legend(first, last), "dash"),
            Swatch("surface", f"no element, of {plural(len(window), 'sampled step')}"),
        ),
        data={"layers": names, "layerAxis": "y"},
    )  # fmt: skip


def _position(edge: int) -> float:
    """Where ``edge`` lies on an axis on which histogram bin ``i`` is centred at ``i``."""
    return EXPONENT_EDGES.index(edge) + 0.5


def _span(share: np.ndarray) -> tuple[int, int]:
    """First and last bin to draw: all that hold elements, and float16's limits for comparison."""
    used = np.flatnonzero(share.sum(axis=0) > 0)
    low = min(int(used.min()) if len(used) else EXPONENT_BINS, EXPONENT_EDGES.index(-24) - 1)
    high = max(int(used.max()) if len(used) else 0, EXPONENT_EDGES.index(-14) + 4)
    return max(0, low), min(EXPONENT_BINS - 1, high + 1)


def _legend(first: int, last: int) -> str:
    seen = [label for edge, label, _ in _LIMITS if first <= _position(edge) <= last]
    return "limits from left to right: " + "; ".join(seen)


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
