"""What every figure is made of, and the look that all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from gradscope.report.escape import plot_text
from gradscope.report.numbers import number
from gradscope.report.theme import colour

Axis = Literal["x", "y"]
ROW = 13
"""Pixels that a tick label needs; below it labels are thinned."""


@dataclass(frozen=True)
class NumberTable:
    """The numbers behind a figure, as text.

    Attributes:
        columns: headings; the first column names the row.
        rows: cells, as many as there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Swatch:
    """One entry of a legend that stands in the page: a colour name, a shape and its meaning."""

    colour: str
    label: str
    shape: Literal["block", "line", "dash", "dotted-line", "dot", "band", "sign"] = "block"
    glyph: str = ""


@dataclass(frozen=True)
class Scale:
    """The colour scale of a heat map: what it measures, and labels at places from 0 to 1.

    A label is a power of ten, given by its exponent, or a plain text.
    """

    title: str
    marks: tuple[tuple[float, int | str], ...]


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        key: its id in the page.
        title: what it is about, a few words.
        reading: one sentence that says what is to be seen in this run.
        help: how to read it, a sentence each.
        table: the same numbers as text; None when nothing was recorded.
        plot: the figure; None when nothing was recorded, and ``reading`` says so.
        legend: entries of the legend.
        scale: colour scale of a heat map.
        reduced: what was left out or merged for display, or "".
        data: what the page's script needs besides: ``layers`` and ``layerAxis``, ``steps`` and
            ``stepAxis``, and figure-specific values.
    """

    key: str
    title: str
    reading: str
    help: tuple[str, ...] = ()
    table: NumberTable | None = None
    plot: go.Figure | None = None
    legend: tuple[Swatch, ...] = ()
    scale: Scale | None = None
    reduced: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def blank(height: int) -> go.Figure:
    """An empty figure in the shared look: transparent, quiet axes, room for labels."""
    figure = go.Figure()
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 60, "r": 16, "t": 12, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": colour("muted")},
        showlegend=False,
        hovermode="closest",
        dragmode=False,
        hoverlabel={
            "bgcolor": colour("surface"),
            "bordercolor": colour("line-strong"),
            "font": {"size": 12, "color": colour("text")},
            "align": "left",
        },
    )
    style_axes(figure)
    return figure


def style_axes(figure: go.Figure) -> None:
    """Give every axis of ``figure`` the shared look; call it again after adding axes."""
    look = {
        "gridcolor": colour("grid"),
        "linecolor": colour("line-strong"),
        "zeroline": False,
        "automargin": False,
        "fixedrange": True,
        "ticks": "outside",
        "tickcolor": colour("line-strong"),
        "ticklen": 4,
        "title": {"standoff": 8},
    }
    figure.update_xaxes(**look)
    figure.update_yaxes(**look)


@dataclass(frozen=True)
class Rows:
    """The layers of a figure, from the top: row ``i`` is layer ``i``.

    Attributes:
        names: what identifies each in the page.
        labels: what the reader sees.
        marked: names that a finding is about; they get a triangle.
    """

    names: list[str]
    labels: list[str]
    marked: frozenset[str] = frozenset()

    @property
    def height(self) -> int:
        """Pixels for the plot area, between a readable least and a screen's height."""
        return int(np.clip(20 * len(self.names), 120, 720))

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs to choose and to label the rows."""
        return {"layers": self.names, "labels": self.labels, "layerAxis": "y"}

    def ticks(self) -> dict[str, Any]:
        """Tick settings; labels are thinned where they would meet, the last one always stands."""
        every = max(1, -(-len(self.names) * ROW // self.height))
        last = len(self.names) - 1
        shown = [i for i in range(0, last, every) if last - i >= every] + [last]
        return {
            "tickmode": "array",
            "tickvals": shown,
            "ticktext": [
                ("▲ " if self.names[i] in self.marked else "")
                + plot_text(shortened(self.labels[i], 22))
                for i in shown
            ],
        }


def row_axis(figure: go.Figure, rows: Rows) -> None:
    """Put the layers on the y axis, the input on top, as in every figure with layers."""
    figure.update_yaxes(range=[len(rows.names) - 0.5, -0.5], showgrid=False, **rows.ticks())
    figure.update_layout(margin={"l": 150, "r": 26, "t": 12, "b": 58})


def shortened(name: str, most: int) -> str:
    """``name`` cut in the middle to ``most`` characters: both ends of a path say something."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def compact(values: npt.NDArray[Any], decimals: int = 2) -> list[Any]:
    """``values`` as nested lists, rounded to what a pixel can show, None where there is none.

    Text of few digits deflates to two thirds of what float32 takes.
    """
    return _rounded(np.asarray(values, np.float64), decimals)


def power_ticks(low: float, high: float, most: int = 7) -> dict[str, Any]:
    """Ticks for an axis of decimal logarithms: powers of ten, and 2 and 5 on a short axis."""
    if high - low < 2.2:
        values = [
            float(m * 10.0**p)
            for p in range(int(np.floor(low)), int(np.ceil(high)) + 1)
            for m in (1, 2, 5)
            if low <= np.log10(m * 10.0**p) <= high
        ]
        return {
            "tickmode": "array",
            "tickvals": [float(np.log10(v)) for v in values],
            "ticktext": [number(v) for v in values],
        }
    exponents = powers(low, high, most)
    return {
        "tickmode": "array",
        "tickvals": exponents,
        "ticktext": [f"10<sup>{p}</sup>".replace("-", "\u2212") for p in exponents],
    }


def powers(low: float, high: float, most: int) -> list[int]:
    """Whole numbers from ``low`` to ``high``, evenly apart, about ``most`` of them."""
    first, last = int(np.ceil(low)), int(np.floor(high))
    every = max(1, -(-(last - first) // most))
    return list(range(-(-first // every) * every, last + 1, every))


def nice_step_ticks(steps: npt.NDArray[np.int64], most: int = 6) -> tuple[list[int], list[str]]:
    """Positions in ``steps`` and their labels, at round step numbers where there are such."""
    if not len(steps):
        return [], []
    span = max(int(steps[-1] - steps[0]), 1)
    raw = span / most
    size = 10 ** int(np.floor(np.log10(max(raw, 1))))
    stride = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    wanted = np.arange(-(-int(steps[0]) // stride) * stride, int(steps[-1]) + 1, stride)
    positions = np.unique(np.clip(np.searchsorted(steps, wanted), 0, len(steps) - 1))
    return [int(p) for p in positions], [f"{int(steps[p]):,}" for p in positions]


def _rounded(values: npt.NDArray[np.float64], decimals: int) -> list[Any]:
    if values.ndim > 1:
        return [_rounded(row, decimals) for row in values]
    return [round(float(v), decimals) if np.isfinite(v) else None for v in values]
