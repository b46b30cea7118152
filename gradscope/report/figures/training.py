"""Over time: the loss, the gradient's norm before and after clipping, and when findings hold."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from gradscope.diagnose.finding import Finding
from gradscope.diagnose.growth import total_norm
from gradscope.diagnose.learning import LossCurve, gate, loss_curve
from gradscope.recording.reader import Recording
from gradscope.report.escape import plot_text
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Swatch,
    blank,
    power_ticks,
    style_axes,
)
from gradscope.report.numbers import number, plural
from gradscope.report.theme import colour
from gradscope.report.view.numerals import ABSENT

Floats = npt.NDArray[np.float64]
POINTS = 480
"""Most points of a line; a longer one keeps the smallest and the largest of each stretch."""
_SEVERITY = {"critical": "●", "warning": "▲", "note": "◆"}
_HELP = (
    "All rows share the step axis. On top the loss, with what the best constant answer would cost "
    "as a dashed line: a loss that stays there has learnt nothing from the input.",
    "In the middle the norm of all gradients together: before clipping, and after it where the "
    "script clips. Where the two lines part, clipping was at work.",
    "Below, one bar for each finding from the first to the last step at which it was seen.",
)
_GAP = 0.07


def training_figure(recording: Recording, findings: tuple[Finding, ...]) -> Figure:
    """The three rows over the steps of the run."""
    findings = tuple(finding for finding in findings if finding.has_steps)
    curve = loss_curve(recording)
    steps, norm = total_norm(recording)
    has_norm = bool(np.isfinite(norm).any())
    if not len(curve.steps) and not has_norm:
        return Figure("curves", "Over time", "Neither a loss nor a gradient norm was recorded.")
    bars = max(len(findings), 1) * 22 + 10
    heights = [170 if len(curve.steps) else 0, 140 if has_norm else 0, bars if findings else 0]
    figure = blank(sum(heights) + 40 * (sum(h > 0 for h in heights) - 1) + 70)
    domains = _domains(heights)
    if len(curve.steps):
        _loss(figure, curve)
    if has_norm:
        _norms(figure, recording, steps.astype(np.float64), norm)
    if findings:
        _timeline(figure, findings)
    for axis, domain, title in zip(
        ("yaxis", "yaxis2", "yaxis3"), domains, ("loss", "gradient norm", None), strict=True
    ):
        if domain is not None:
            figure.update_layout({axis: {"domain": domain, "title": {"text": title}}})
    style_axes(figure)
    seen = np.concatenate([curve.steps, steps.astype(np.float64)])
    start, end = float(seen.min()), max(float(seen.max()), float(seen.min()) + 1)
    figure.update_xaxes(
        range=[start - 0.01 * (end - start), end + 0.01 * (end - start)],
        title_text="training step",
        anchor="y3" if findings else "y2" if has_norm else "y",
        tickformat=",d",
    )
    figure.update_layout(margin={"l": 84, "r": 16, "t": 12, "b": 48}, barmode="overlay")
    return Figure(
        key="curves",
        title="Over time",
        reading=_reading(recording, has_norm),
        help=_HELP,
        table=_table(curve, steps, norm),
        plot=figure,
        legend=_legend(recording, curve, has_norm),
        reduced=_reduced(len(curve.steps)),
        data={"stepAxis": "x", "domains": [d for d in domains if d]},
    )


def _domains(heights: list[int]) -> list[list[float] | None]:
    """Share of the plot area for each row that is there, from the top."""
    shown = [h for h in heights if h]
    usable = 1 - _GAP * (len(shown) - 1)
    domains: list[list[float] | None] = []
    top = 1.0
    for height in heights:
        if not height:
            domains.append(None)
            continue
        bottom = max(0.0, top - usable * height / sum(shown))
        domains.append([round(bottom, 4), round(top, 4)])
        top = bottom - _GAP
    return domains


def _loss(figure: go.Figure, curve: LossCurve) -> None:
    x, y = _thinned(curve.steps, curve.loss)
    figure.add_trace(_line(x, y, "series-1", "loss", "y"))
    bad = ~np.isfinite(curve.loss)
    finite = curve.loss[~bad]
    if math.isfinite(curve.baseline_as_loss):
        ends = [float(curve.steps[0]), float(curve.steps[-1])]
        figure.add_trace(
            go.Scatter(
                x=ends, y=[curve.baseline_as_loss] * 2, mode="lines", yaxis="y",
                line={"dash": "dash", "color": colour("series-2"), "width": 1.5},
                text=[number(curve.baseline_as_loss)] * 2,
                hovertemplate="%{text}<extra>best constant answer</extra>",
            )
        )  # fmt: skip
    if bad.any() and len(finite):
        first = float(curve.steps[bad][0])
        figure.add_trace(
            go.Scatter(
                x=[first], y=[float(finite.max())], mode="markers+text", yaxis="y",
                marker={"symbol": "x", "size": 9, "color": colour("state-non-finite")},
                text=[f"NaN or Inf from step {first:,.0f}"], textposition="middle right",
                textfont={"color": colour("text")}, hoverinfo="skip", cliponaxis=False,
            )
        )  # fmt: skip
    if len(finite) and finite.min() > 0 and finite.max() > 50 * finite.min():
        figure.update_layout(yaxis=_log_axis(finite))


def _norms(figure: go.Figure, recording: Recording, steps: Floats, norm: Floats) -> None:
    frame = recording.steps
    positive = norm[np.isfinite(norm) & (norm > 0)]
    figure.add_trace(_line(*_thinned(steps, norm), "series-1", "before clipping", "y2"))
    if frame["clip_limit"].notna().any():
        at = frame["step"].to_numpy(np.float64)
        after = frame["norm"].to_numpy(np.float64)
        figure.add_trace(_line(*_thinned(at, after), "series-3", "after clipping", "y2", "dot"))
        limit = frame["clip_limit"].to_numpy(np.float64)
        figure.add_trace(_line(*_thinned(at, limit), "series-2", "clip limit", "y2", "dash"))
    if len(positive) and positive.max() > 50 * positive.min():
        figure.update_layout(yaxis2=_log_axis(positive))


def _log_axis(values: Floats) -> dict[str, object]:
    ticks = power_ticks(math.log10(values.min()), math.log10(values.max()), 4)
    return {"type": "log", **ticks, "tickvals": [10.0**power for power in ticks["tickvals"]]}


def _timeline(figure: go.Figure, findings: tuple[Finding, ...]) -> None:
    for row, finding in enumerate(findings):
        figure.add_trace(
            go.Bar(
                x=[max(finding.last_step - finding.first_step, 0.5)],
                base=[finding.first_step],
                y=[row],
                width=0.55,
                orientation="h",
                yaxis="y3",
                marker={"color": colour(finding.severity)},
                hovertemplate=plot_text(
                    f"{finding.code} {finding.name}: steps {finding.first_step:,} to "
                    f"{finding.last_step:,}"
                )
                + "<extra></extra>",
            )
        )
    figure.update_layout(
        yaxis3={
            "range": [len(findings) - 0.4, -0.6],
            "tickmode": "array",
            "tickvals": list(range(len(findings))),
            "ticktext": [f"{_SEVERITY[f.severity]} {plot_text(f.code)}" for f in findings],
            "showgrid": False,
        }
    )


def _line(
    x: Floats, y: Floats, shade: str, name: str, axis: str, dash: str = "solid"
) -> go.Scatter:
    return go.Scatter(
        x=[round(float(v), 3) for v in x],
        y=[float(f"{v:.5g}") if np.isfinite(v) else None for v in y],
        mode="lines", yaxis=axis, name=name,
        line={"color": colour(shade), "width": 1.75, "dash": dash},
        hovertemplate="%{y:.4g} at step %{x:,.0f}<extra>" + name + "</extra>",
    )  # fmt: skip


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most POINTS points: the smallest and the largest of each stretch, in their order."""
    if len(x) <= POINTS:
        return x, y
    keep: list[int] = []
    for block in np.array_split(np.arange(len(x)), POINTS // 2):
        finite = block[np.isfinite(y[block])]
        if len(finite):
            keep += sorted({int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])})
        else:
            keep.append(int(block[0]))
    return x[keep], y[keep]


def _reduced(points: int) -> str:
    if points <= POINTS:
        return ""
    return (
        f"{points:,} steps are drawn as {POINTS} points: the smallest and the largest of each "
        f"stretch of {points // (POINTS // 2)} steps."
    )


def _reading(recording: Recording, has_norm: bool) -> str:
    learning = gate(recording)
    parts = [learning.reason[:1].upper() + learning.reason[1:] + "."]
    limit = recording.steps["clip_limit"].to_numpy(np.float64)
    before = recording.steps["norm_before_clip"].to_numpy(np.float64)
    clipped = np.isfinite(limit)
    if has_norm and clipped.any():
        bound = int((before[clipped] > limit[clipped]).sum())
        parts.append(f"Clipping was at work on {bound:,} of {plural(int(clipped.sum()), 'step')}.")
    return " ".join(parts)


def _legend(recording: Recording, curve: LossCurve, has_norm: bool) -> tuple[Swatch, ...]:
    entries = [Swatch("series-1", "loss; norm before clipping" if has_norm else "loss", "line")]
    if not recording.steps["clip_limit"].notna().any():
        entries = [Swatch("series-1", "loss; gradient norm" if has_norm else "loss", "line")]
    elif has_norm:
        entries.append(Swatch("series-3", "norm after clipping", "dotted-line"))
    dashed = [
        text
        for text, there in (
            ("best constant answer", math.isfinite(curve.baseline_as_loss)),
            ("clip limit", has_norm and bool(recording.steps["clip_limit"].notna().any())),
        )
        if there
    ]
    if dashed:
        entries.append(Swatch("series-2", "; ".join(dashed), "dash"))
    return tuple(entries)


def _table(curve: LossCurve, steps: npt.NDArray[np.int64], norm: Floats) -> NumberTable:
    """Twelve steps spread over the run: a table that a person reads through."""
    by_step = dict(zip(steps.tolist(), norm.tolist(), strict=True))
    all_steps = np.unique(np.concatenate([curve.steps, steps.astype(np.float64)]))
    picked = all_steps[np.unique(np.linspace(0, len(all_steps) - 1, 12).round().astype(int))]
    losses = dict(zip(curve.steps.tolist(), curve.loss.tolist(), strict=True))
    return NumberTable(
        ("step", "loss", "gradient norm before clipping"),
        tuple((f"{s:,.0f}", _cell(losses.get(s)), _cell(by_step.get(int(s)))) for s in picked),
    )


def _cell(value: float | None) -> str:
    # a NaN is a value that the loss had, not one that is missing
    return ABSENT if value is None else number(value)
