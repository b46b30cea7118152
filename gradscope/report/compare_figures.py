"""Both sides in the same pictures: the loss, and each statistic in which they part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose.apart.outcome import Comparison, Curve
from gradscope.diagnose.apart.parting import Difference
from gradscope.report.clean import one_line
from gradscope.report.compare_view import times
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Swatch,
    blank,
    compact,
    power_ticks,
)
from gradscope.report.numbers import number, plural
from gradscope.report.theme import colour

HEIGHT = 240
_A, _B = "series-1", "series-2"


def figures(found: Comparison) -> list[Figure]:
    """The loss first, then the partings, strongest first."""
    made = [_loss(found)]
    made += [
        _parting(at, difference, one, other, found)
        for at, (difference, one, other) in enumerate(found.curves)
    ]
    return made


def _legend(found: Comparison) -> tuple[Swatch, ...]:
    return (
        Swatch(_A, one_line(found.a.name), "line"),
        Swatch(_B, one_line(found.b.name), "dash"),
    )


def _loss(found: Comparison) -> Figure:
    one, other = found.losses
    if not one and not other:
        return Figure("loss-curve", "Loss", "No loss was recorded.")
    logs = [
        [Curve(c.steps, tuple(np.log10(np.maximum(c.values, 1e-30)))) for c in side]
        for side in (one, other)
    ]
    return Figure(
        "loss-curve", "Loss", "The loss on every step, on a logarithmic scale.",
        table=_table(logs[0], logs[1]), plot=_plot(logs[0], logs[1], "loss", None),
        legend=_legend(found), data={"stepAxis": "x"},
    )  # fmt: skip


def _parting(
    at: int, difference: Difference, one: Sequence[Curve], other: Sequence[Curve], found: Comparison
) -> Figure:
    layer = one_line(difference.layer) or "the model"
    return Figure(
        f"part-{at}", f"{layer}: {difference.name}",
        f"Apart since step {difference.since} (dotted line): {times(difference.times)} in B, where "
        f"chance explains ×{number(difference.limit)}.",
        table=_table(one, other), plot=_plot(one, other, difference.name, difference.since),
        legend=_legend(found), data={"stepAxis": "x"},
    )  # fmt: skip


def _plot(one: Sequence[Curve], other: Sequence[Curve], name: str, since: int | None) -> go.Figure:
    figure = blank(HEIGHT)
    for side, shade, dash in ((one, _A, "solid"), (other, _B, "dash")):
        for at, curve in enumerate(side):
            label = f"{'A' if shade == _A else 'B'}{at + 1 if len(side) > 1 else ''}"
            figure.add_trace(
                go.Scatter(
                    x=list(curve.steps), y=compact(np.array(curve.values), 4), mode="lines",
                    name=label, line={"color": colour(shade), "width": 1.8, "dash": dash},
                    text=[number(10.0**v) for v in curve.values],
                    hovertemplate=f"{label}, step %{{x}}: %{{text}}<extra></extra>",
                )
            )  # fmt: skip
    values = [v for side in (one, other) for curve in side for v in curve.values]
    low, high = min(values), max(values)
    pad = max(0.8 - (high - low), 0.06 * (high - low)) / 2 + 0.01
    figure.update_yaxes(range=[low - pad, high + pad], **power_ticks(low - pad, high + pad, 5))
    figure.update_xaxes(title_text="step")
    if since is not None:
        figure.add_vline(x=since, line={"color": colour("line-strong"), "width": 1, "dash": "dot"})
    return figure


def _table(one: Sequence[Curve], other: Sequence[Curve]) -> NumberTable:
    """A few steps of each run as numbers."""
    curves = [*one, *other]
    names = [f"A{i + 1}" for i in range(len(one))] + [f"B{i + 1}" for i in range(len(other))]
    common = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    shown = [common[round(i * (len(common) - 1) / 11)] for i in range(12)] if common else []
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    rows = tuple(
        (f"step {step}", *(number(10.0 ** table[step]) for table in tables))
        for step in dict.fromkeys(shown)
    )
    return NumberTable(("", *names), rows)


def reading(found: Comparison) -> str:
    """What the pictures of the partings show."""
    more = len(found.differences) - len(found.curves)
    tail = f" {plural(more, 'weaker one')} have no picture." if more > 0 else ""
    return f"The strongest partings, a layer's own ones first, on logarithmic scales.{tail}"
