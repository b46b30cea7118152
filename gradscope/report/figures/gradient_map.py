"""The map: the size of the gradient of every layer at every sampled step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from gradscope.report.figures.blocks import Block, blocks
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Rows,
    Scale,
    Swatch,
    blank,
    compact,
    nice_step_ticks,
    powers,
    row_axis,
)
from gradscope.report.numbers import plural
from gradscope.report.summary import others
from gradscope.report.theme import CIVIDIS, colour
from gradscope.report.view.layers import Cell, Layers
from gradscope.report.view.numerals import ABSENT, number

COLUMNS = 240
"""Most columns: a screen shows no more, and the page stays small."""
LEAST = 3.0
"""Least decades from end to end of the colours: a map of a healthy run must look even."""
_STATES = (
    (Cell.FROZEN, "state-frozen", "frozen", "F"),
    (Cell.NONE, "state-none", "no gradient", "–"),
    (Cell.ZERO, "state-zero", "exactly zero", "0"),
    (Cell.NON_FINITE, "state-non-finite", "NaN or Inf", "×"),
)
_HELP = (
    "Each row is a layer, the input on top and the output at the bottom; each column is a sampled "
    "training step. The colour is the root mean square of the gradient of its weights that the "
    "optimizer was about to use, so a large layer does not look worse than a small one.",
    "A healthy map is nearly one colour from top to bottom. A map that darkens towards the top "
    "vanishes; one that brightens towards the top explodes; a bright column is a spike. Where the "
    "layers' outputs grow or shrink, too, they hide it here: see the next figure.",
    "Click a cell to choose its layer and step in all figures below, or use the two fields.",
)


def gradient_map(layers: Layers, marked: frozenset[str]) -> Figure:
    """The heat map of ``layers``; ``marked`` are the names that findings are about."""
    if not len(layers.steps) or not layers.layers:
        return Figure("map", "Where and when", "No gradient was recorded, so there is no map.")
    groups = _groups(len(layers.steps))
    middle, largest, cells = _reduce(layers, groups)
    seen = middle[np.isfinite(middle)]
    rows = Rows(layers.names, layers.labels, marked)
    folded = blocks(layers.names)
    figure = blank(rows.height + 56)
    present = [state for state in _STATES if (cells == state[0]).any()]
    for cell, shade, label, _ in present:
        figure.add_trace(_flat(cells == cell, shade, label))
    high = float(np.nanmax(largest)) if len(seen) else 0.0
    low = min(float(seen.min()) if len(seen) else high, high - LEAST)
    figure.add_trace(
        go.Heatmap(
            z=compact(middle),
            zmin=low,
            zmax=high,
            colorscale=[list(stop) for stop in CIVIDIS],
            hoverongaps=False,
            hovertemplate="10^%{z:.2f}<extra></extra>",
            name="gradient",
            showscale=False,
        )
    )
    glyphs = [(r, c, sign) for cell, _, _, sign in present for r, c in _begins(cells == cell)]
    if glyphs:
        figure.add_trace(
            go.Scatter(
                x=[c for _, c, _ in glyphs],
                y=[r for r, _, _ in glyphs],
                text=[sign for _, _, sign in glyphs],
                mode="text",
                textposition="middle right",
                textfont={"color": colour("glyph"), "size": 13},
                hoverinfo="skip",
            )
        )
    starts = layers.steps[[first for first, _ in groups]]
    positions, labels = nice_step_ticks(starts)
    row_axis(figure, rows)
    figure.update_layout(
        margin={"l": 150, "r": 16, "t": 6, "b": 50},
        plot_bgcolor=colour("not-recorded"),
    )
    figure.update_xaxes(
        title_text="sampled step", tickmode="array", tickvals=positions, ticktext=labels,
        showgrid=False, range=[-0.5, len(groups) - 0.5],
    )  # fmt: skip
    return Figure(
        key="map",
        title="Where and when",
        reading=_reading(layers),
        help=_HELP,
        table=_table(layers),
        plot=figure,
        legend=(
            *(Swatch(shade, label, glyph=sign) for _, shade, label, sign in present),
            *([Swatch("not-recorded", "not recorded")] if (cells == 0).any() else []),
            *(
                [Swatch("muted", "a finding is about this layer", "sign", "▲")]
                if marked & set(rows.names)
                else []
            ),
        ),
        scale=Scale(
            "RMS of the weights' gradient",
            tuple(((p - low) / (high - low), p) for p in powers(low, high, 6)),
        ),
        reduced=_reduced(len(layers.steps), len(groups), len(layers.layers), folded),
        data={
            **rows.data,
            "columns": [[int(layers.steps[a]), int(layers.steps[b - 1])] for a, b in groups],
            "cells": cells.tolist(),
            "excess": compact(largest - middle, 1) if len(groups) < len(layers.steps) else None,
            "blocks": folded,
            "marked": sorted(marked & set(rows.names)),
        },
    )


def _groups(count: int) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive sampled steps, at most COLUMNS, their sizes one apart."""
    edges = np.linspace(0, count, min(count, COLUMNS) + 1).round().astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def _reduce(
    layers: Layers, groups: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Median and maximum of log10 RMS, and the cell that hides the others, for each column."""
    shape = (len(layers.layers), len(groups))
    middle, largest = np.full(shape, np.nan), np.full(shape, np.nan)
    cells = np.zeros(shape, np.uint8)
    with np.errstate(divide="ignore"):
        logs = np.log10(layers.rms)
    logs[~np.isfinite(logs)] = np.nan
    for column, (a, b) in enumerate(groups):
        cells[:, column] = layers.cells[:, a:b].max(axis=1)
        block = logs[:, a:b]
        some = ~np.isnan(block).all(axis=1)
        middle[some, column] = np.nanmedian(block[some], axis=1)
        largest[some, column] = np.nanmax(block[some], axis=1)
    # a column that holds one NaN among finite steps must show it: the state lies over the colour
    middle[cells != Cell.FINITE] = np.nan
    largest[cells != Cell.FINITE] = np.nan
    return middle, largest, cells


def _flat(where: npt.NDArray[np.bool_], shade: str, label: str) -> go.Heatmap:
    return go.Heatmap(
        z=[[1 if cell else None for cell in row] for row in where],
        colorscale=[[0, colour(shade)], [1, colour(shade)]],
        showscale=False,
        hoverongaps=False,
        name=label,
        hovertemplate=f"{label}<extra></extra>",
    )


def _begins(where: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First cell of each run of ``where`` in each row; one glyph there marks the whole run."""
    before = np.zeros_like(where)
    before[:, 1:] = where[:, :-1]
    for row, column in np.argwhere(where & ~before):
        yield int(row), int(column)


def _last_finite(layers: Layers) -> tuple[int, npt.NDArray[np.float64]] | None:
    columns = np.flatnonzero(np.isfinite(layers.rms).any(axis=0))
    return (int(layers.steps[columns[-1]]), layers.rms[:, columns[-1]]) if len(columns) else None


def _reading(layers: Layers) -> str:
    parts = []
    last = _last_finite(layers)
    if last is not None:
        step, column = last
        known = np.flatnonzero(np.isfinite(column) & (column > 0))
        if len(known) == 1:
            parts.append(
                f"At step {step:,} only {layers.labels[known[0]]} has a gradient that is not zero: "
                f"{number(column[known[0]])}."
            )
        elif len(known):
            small, large = known[column[known].argmin()], known[column[known].argmax()]
            span = np.log10(column[large]) - np.log10(column[small])
            apart = f"{span:.1f}" if span >= 0.05 else "less than 0.1"
            parts.append(
                f"At step {step:,} the weights' gradient is smallest in {layers.labels[small]} "
                f"({number(column[small])}) and largest in {layers.labels[large]} "
                f"({number(column[large])}): {apart} orders of magnitude apart."
            )
        at = int(np.flatnonzero(layers.steps == step)[-1])
        for cell, words in ((Cell.NONE, "No gradient there"), (Cell.ZERO, "Exactly zero there")):
            rows = np.flatnonzero(layers.cells[:, at] == cell)
            if len(rows):
                parts.append(f"{words}: {others(tuple(layers.labels[row] for row in rows))}.")
    broken = np.argwhere(layers.cells == Cell.NON_FINITE)
    if len(broken):
        at = int(broken[:, 1].min())
        rows = np.flatnonzero(layers.cells[:, at] == Cell.NON_FINITE)
        parts.append(
            f"NaN or Inf first at step {int(layers.steps[at]):,}, in {plural(len(rows), 'layer')} "
            f"of {len(layers.layers)}."
        )
    return " ".join(parts) or "No finite gradient was recorded."


def _reduced(steps: int, columns: int, layers: int, folded: list[Block] | None) -> str:
    texts = []
    if columns < steps:
        texts.append(
            f"{plural(steps, 'sampled step')} are drawn as {columns} columns, each the median of "
            f"up to {-(-steps // columns)} steps; every NaN and Inf is kept, and the largest value "
            "of each column can be shown instead."
        )
    if folded:
        texts.append(
            f"{layers:,} layers are drawn as {len(folded)} blocks, each the median of its layers, "
            "with every NaN and Inf; a click on a block opens it."
        )
    return " ".join(texts)


def _table(layers: Layers) -> NumberTable:
    rows = []
    for name, rms, cells in zip(layers.labels, layers.rms, layers.cells, strict=True):
        finite = rms[np.isfinite(rms)]
        texts = [ABSENT] * 5
        if len(finite):
            ends = (finite[0], np.median(finite), finite[-1], finite.min(), finite.max())
            texts = [number(float(value)) for value in ends]
        others = [
            f"{label} on {plural(int((cells == cell).sum()), 'step')}"
            for cell, _, label, _ in _STATES
            if (cells == cell).any()
        ]
        rows.append((name, *texts, ", ".join(others) or "finite on all"))
    return NumberTable(
        ("layer", "first", "median", "last", "smallest", "largest", "state"), tuple(rows)
    )
