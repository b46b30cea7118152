"""By depth: the gradient's size at every layer early and late in the run, and each layer's gain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose import windows
from gradscope.diagnose.flow import VANISHED, DepthProfile, Layer, depth_profile
from gradscope.recording.reader import Recording
from gradscope.report.clean import one_line
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
from gradscope.report.summary import others
from gradscope.report.theme import colour
from gradscope.report.view.layers import Cell, labels_of, layers_of
from gradscope.report.view.numerals import number, times

MARKED = 40
"""Most layers whose points get markers of their own; more would hide the line."""
LEAST = 2.0
"""Least decades from end to end of the axis: the line of a healthy run must look upright."""
SLIGHT = 0.05
"""Decades by which a part must change the gradient to be named."""
EVEN = 1.5
"""Factor between two layers up to which their gradients count as equally large."""
_PROFILE_HELP = (
    "The norm of the loss gradient at each layer's output, the input on top. The solid line is the "
    "last window of the run with the band that holds eight tenths of its steps; the dashed line is "
    "the first window.",
    "An upright line is what training wants. A line that runs to the left on its way up loses the "
    "gradient before it reaches the input; one that runs to the right grows it.",
    "It is what the checks for vanishing and exploding gradients judge. The map above shows the "
    "gradients of the weights instead: what arrives at a layer, times what the layer reads.",
)
_GAIN_HELP = (
    "Backpropagation multiplies the gradient by one factor at each layer: its gain, the norm at "
    "the layer's input over that at its output. Bars to the left shrink the gradient, bars to "
    "the right grow it; their product over all layers is the profile beside it.",
    "Weights and activations are told apart, because they are mended differently: a weight by its "
    "initialisation or a norm, an activation by another one.",
)
_KINDS = (
    ("weight", "series-1", "", "weights"),
    ("activation", "series-2", "/", "activation"),
    ("other", "series-quiet", ".", "other (norm, pooling, reshape, add)"),
)


def depth_figures(recording: Recording, marked: frozenset[str]) -> tuple[Figure, Figure]:
    """The profile and the gains; ``marked`` are the names that findings are about."""
    seen = recording.has("activations") and len(recording.modules) > 0
    last = depth_profile(recording) if seen else None
    if last is None or not last.layers or not last.steps:
        missing = "Gradients inside the model were not recorded"
        return (
            Figure("depth", "How much arrives", f"{missing}, so there is no profile by depth."),
            Figure("gain", "Who loses it", f"{missing}, so no layer's gain is known."),
        )
    first = depth_profile(recording, windows.first_window(recording, "activations"))
    labels = labels_of(recording)
    names = [_name(layer) for layer in last.layers]
    rows = Rows(names, [labels.get(name, name) for name in names], marked)
    return _profile(first, last, rows, _silent(recording)), _gains(last, rows)


def _profile(first: DepthProfile, last: DepthProfile, rows: Rows, never: tuple[str, ...]) -> Figure:
    at = list(range(len(rows.names)))
    figure = blank(rows.height + 70)
    early = {_name(layer): layer.norm for layer in first.layers}
    before = _logs([early.get(name, math.nan) for name in rows.names])
    middle = _logs([layer.norm for layer in last.layers])
    low = _logs([layer.norm_low for layer in last.layers])
    high = _logs([layer.norm_high for layer in last.layers])
    figure.add_trace(
        go.Scatter(
            x=compact(np.concatenate([low, high[::-1]])), y=at + at[::-1], mode="lines",
            fill="toself", fillcolor=colour("series-1"), opacity=0.22, line={"width": 0},
            hoverinfo="skip", name="eight tenths of the steps",
        )
    )  # fmt: skip
    for values, dash, shade, symbol, name in (
        (before, "dash", "series-2", "circle-open", "first window"),
        (middle, "solid", "series-1", "circle", "last window"),
    ):
        figure.add_trace(
            go.Scatter(
                x=compact(values), y=at, name=name,
                mode="lines+markers" if len(at) <= MARKED else "lines",
                line={"dash": dash, "color": colour(shade), "width": 2},
                marker={"size": 6, "symbol": symbol, "color": colour(shade)},
                text=[number(float(10**v)) for v in values],
                hovertemplate="%{text}<extra>" + name + "</extra>",
            )
        )  # fmt: skip
    seen = np.concatenate([before, low, high])
    seen = seen[np.isfinite(seen)]
    if len(seen):
        middle_of, half = (seen.max() + seen.min()) / 2, (seen.max() - seen.min()) / 2 + 0.15
        half = max(half, LEAST / 2)
        ends = float(middle_of - half), float(middle_of + half)
        figure.update_xaxes(range=list(ends), **power_ticks(*ends, 6))
        silent = [row for row, value in enumerate(middle) if not np.isfinite(value)]
        figure.add_trace(
            go.Scatter(
                x=[ends[0]] * len(silent), y=silent, mode="text", hoverinfo="skip",
                text=["exactly zero"] * len(silent), textposition="middle right",
                textfont={"color": colour("muted")},
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="gradient norm at the output")
    row_axis(figure, rows)
    return Figure(
        key="depth",
        title="How much arrives",
        reading=_profile_reading(last, rows, never),
        help=_PROFILE_HELP,
        table=NumberTable(
            ("layer", "first window", "last window", "10 % of steps below", "10 % of steps above"),
            tuple(
                (
                    label,
                    number(early.get(_name(layer))),
                    number(layer.norm),
                    number(layer.norm_low),
                    number(layer.norm_high),
                )
                for label, layer in zip(rows.labels, last.layers, strict=True)
            ),
        ),
        plot=figure,
        legend=(
            Swatch("series-1", f"last {plural(len(last.steps), 'sampled step')}", "line"),
            Swatch("series-1", "eight tenths of them", "band"),
            Swatch("series-2", f"first {plural(len(first.steps), 'sampled step')}", "dash"),
        ),
        data=rows.data,
    )


def _gains(last: DepthProfile, rows: Rows) -> Figure:
    bars = [bar for row, layer in enumerate(last.layers) for bar in _bars(row, layer)]
    if not bars:
        return Figure(
            "gain", "Who loses it", "No layer had a gradient at its input as well as at its output."
        )
    figure = blank(rows.height + 70)
    for kind, shade, pattern, label in _KINDS:
        own = [bar for bar in bars if bar[0] == kind]
        if not own:
            continue
        figure.add_trace(
            go.Bar(
                x=compact(np.array([math.log10(gain) for _, _, gain, _ in own]), 3),
                y=[row for _, row, _, _ in own],
                width=[0.4 if between else 0.72 for _, _, _, between in own],
                orientation="h",
                name=label,
                marker={
                    "color": colour(shade),
                    "line": {"width": 0},
                    "pattern": {"shape": pattern, "fgcolor": colour("surface"), "size": 5,
                                "solidity": 0.25, "fillmode": "overlay"},
                },
                text=[f"×{number(gain)}" for _, _, gain, _ in own],
                textposition="none",
                hovertemplate="%{text}<extra>" + label + "</extra>",
            )
        )  # fmt: skip
    logs = [math.log10(gain) for _, _, gain, _ in bars]
    reach = max(0.2, *(abs(v) for v in logs)) * 1.1
    ends = (-reach if min(logs) < 0 else -0.2 * reach, reach if max(logs) > 0 else 0.2 * reach)
    values = _gain_ticks(*ends)
    figure.update_layout(barmode="overlay", bargap=0.2)
    figure.update_xaxes(
        title_text="gain of the layer", range=list(ends), tickmode="array",
        tickvals=[math.log10(v) for v in values], ticktext=[f"×{number(v)}" for v in values],
        zeroline=True, zerolinecolor=colour("line-strong"),
    )  # fmt: skip
    row_axis(figure, rows)
    present = {bar[0] for bar in bars}
    return Figure(
        key="gain",
        title="Who loses it",
        reading=_gain_reading(last),
        help=_GAIN_HELP,
        table=NumberTable(
            ("layer", "kind", "gain", "gain up to the next layer"),
            tuple(
                (label, layer.kind, number(layer.gain), number(layer.between))
                for label, layer in zip(rows.labels, last.layers, strict=True)
            ),
        ),
        plot=figure,
        legend=tuple(
            Swatch(shade, label, glyph={"/": "hatched", ".": "dotted"}.get(pattern, ""))
            for kind, shade, pattern, label in _KINDS
            if kind in present
        ),
        data=rows.data,
    )


def _name(layer: Layer) -> str:
    return one_line(layer.module) or "the model"


def _bars(row: int, layer: Layer) -> list[tuple[str, float, float, bool]]:
    """Kind, position, gain, and whether it stands between two layers."""
    found = []
    if layer.gain > 0 and math.isfinite(layer.gain):
        found.append((str(layer.kind), float(row), layer.gain, False))
    # a gain of exactly 1 between two layers is a plain connection: nothing to draw
    if layer.between > 0 and math.isfinite(layer.between) and abs(layer.between - 1) > 1e-3:
        found.append((str(layer.between_kind), row + 0.5, layer.between, True))
    return found


def _silent(recording: Recording) -> tuple[str, ...]:
    """Labels of the layers whose weights never got a gradient: the profile may lack them."""
    layers = layers_of(recording)
    if not len(layers.steps):
        return ()
    never = (layers.cells == Cell.NONE) | (layers.cells == Cell.ZERO)
    return tuple(layers.labels[row] for row in np.flatnonzero(never.all(axis=1)))


def _profile_reading(last: DepthProfile, rows: Rows, silent: tuple[str, ...]) -> str:
    layers = list(zip(rows.labels, last.layers, strict=True))
    heard = [(label, layer) for label, layer in layers if layer.norm > 0]
    zero = tuple(label for label, layer in layers if not layer.norm > 0)
    parts = []
    if silent:
        parts.append(f"No gradient reaches {others(silent)}.")
    elif zero:
        parts.append(f"The gradient is exactly zero at the output of {others(zero)}.")
    weights = [pair for pair in heard if pair[1].kind == "weight"]
    if len(heard) > 1:
        parts.append(_span(last, (weights or heard)[0], heard[-1]))
    elif heard:
        label, layer = heard[0]
        parts.append(f"Only {label} has one, of norm {number(layer.norm)}.")
    return " ".join(parts)


def _span(last: DepthProfile, front: tuple[str, Layer], end: tuple[str, Layer]) -> str:
    """The drawn line in words: its two ends, and how steep it is between them."""
    (first, top), (bottom, lowest) = front, end
    if first == bottom:
        return f"The gradient arrives at {first} alone, with a norm of {number(top.norm)}."
    ratio = top.norm / lowest.norm
    if 1 / EVEN < ratio < EVEN:
        return f"The gradient is about as large at {first} as at {bottom}: {times(ratio)} of it."
    much = times(max(ratio, 1 / ratio))
    text = (
        f"The gradient is {much} {'larger' if ratio > 1 else 'smaller'} at {first} than at {bottom}"
    )
    if math.isfinite(last.slope) and last.decades >= 0.5:
        low, high = (times(10**slope) for slope in (last.slope_low, last.slope_high))
        text += f": {times(10**last.slope)} per weight layer (nine tenths of the steps: {low} to "
        text += f"{high})"
    # the words must not sound worse than the check that judges the same number
    harmless = ratio < 1 and last.decades <= VANISHED
    return f"{text}; less than {times(10**VANISHED)} is usual." if harmless else f"{text}."


def _gain_reading(last: DepthProfile) -> str:
    all_parts = {
        "weights": last.weight_decades,
        "activations": last.activation_decades,
        "everything else": last.other_decades,
    }
    known = {name: value for name, value in all_parts.items() if math.isfinite(value)}
    if not known:
        return "The gains behind the first weights are not known."
    said = []
    for verb, sign in (("shrinks", 1), ("grows", -1)):
        parts = sorted(((sign * value, name) for name, value in known.items()), reverse=True)
        texts = [f"{times(10 ** min(v, 300))} in {name}" for v, name in parts if v > SLIGHT]
        if texts:
            said.append(f"{verb} {', '.join(texts)}")
    if not said:
        return "Behind the first weights no part changes the gradient's size."
    return f"Behind the first weights the gradient {'; it '.join(said)}."


def _gain_ticks(low: float, high: float) -> list[float]:
    if high - low < 0.7:
        choices = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.0]
    elif high - low < 2.2:
        choices = [0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0]
    else:
        every = max(1, math.ceil((high - low) / 5))
        choices = [10.0**p for p in range(-300, 301) if p % every == 0]
    return [v for v in choices if low <= math.log10(v) <= high]


def _logs(values: Sequence[float]) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.asarray(values, np.float64))
    logs[~np.isfinite(logs)] = np.nan
    return logs
