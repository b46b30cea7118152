"""Small line charts as inline SVG: they need no script and print as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

WIDTH, HEIGHT = 240, 56
_PAD = 5
_POINTS = 120


@dataclass(frozen=True)
class Line:
    """One line: its name, its values over the same x, and its class in the style sheet."""

    name: str
    y: npt.NDArray[np.float64]
    style: str


def sparkline(
    x: npt.NDArray[np.float64],
    lines: Sequence[Line],
    label: str,
    span: tuple[float, float] | None = None,
) -> Markup:
    """The chart, with ``span`` shaded; "" when no line has two finite points.

    Args:
        x: positions, ascending.
        lines: what is drawn, on one scale.
        label: what the picture shows, for those who do not see it.
        span: stretch of ``x`` to shade.
    """
    values = np.concatenate([line.y for line in lines]) if lines else np.zeros(0)
    finite = values[np.isfinite(values)]
    if len(finite) < 2 or len(x) < 2:
        return Markup("")
    low, high = float(finite.min()), float(finite.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    start, end = float(x[0]), float(x[-1])

    def across(value: float) -> float:
        return round(_PAD + (WIDTH - 2 * _PAD) * (value - start) / max(end - start, 1e-9), 1)

    def down(value: float) -> float:
        return round(_PAD + (HEIGHT - 2 * _PAD) * (high - value) / (high - low), 1)

    parts = []
    if span is not None:
        left, right = across(max(span[0], start)), across(min(span[1], end))
        parts.append(
            Markup('<rect class="span" x="{}" y="0" width="{}" height="{}"/>').format(
                left, round(max(right - left, 2), 1), HEIGHT
            )
        )
    for line in lines:
        for stretch in _stretches(*_thinned(x, line.y)):
            points = " ".join(f"{across(a)},{down(b)}" for a, b in stretch)
            parts.append(Markup('<polyline class="{}" points="{}"/>').format(line.style, points))
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="{}" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(WIDTH, HEIGHT, label, Markup("").join(parts))


def _thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if len(x) <= _POINTS:
        return x, y
    at = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
    return x[at], y[at]


def _stretches(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> list[list[tuple[float, float]]]:
    """Runs of finite points: a line must not bridge what was not recorded."""
    found: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if np.isfinite(b):
            found[-1].append((a, b))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if len(stretch) > 1]
