"""The gradient's size on its way back, as an inline SVG that needs no script."""

from __future__ import annotations

import math

from markupsafe import Markup

from gradscope.anatomy.facts import Chain
from gradscope.report.clean import one_line
from gradscope.report.numbers import number

WIDTH, HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 16, 40
_LEAST = 2.0
"""Least decades of the axis: a healthy line must look level."""


def flow(chain: Chain) -> Markup:
    """A line from the loss (left) to the input (right) on a logarithmic scale; "" for one point."""
    points = [(f.label, f.kind, f.product) for f in chain.factors if f.product > 0]
    if len(points) < 2:
        return Markup("")
    logs = [math.log10(product) for _, _, product in points]
    low, high = min(logs), max(logs)
    pad = max(_LEAST - (high - low), 0.3) / 2
    low, high = low - pad, high + pad

    def across(at: int) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * at / (len(points) - 1), 1)

    def down(log: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - log) / (high - low), 1)

    parts = []
    every = max(1, math.ceil((high - low) / 5))
    for power in range(math.ceil(low), math.floor(high) + 1):
        if power % every:
            continue
        y = down(power)
        parts.append(
            Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, WIDTH - _RIGHT, y, y
            )
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                _LEFT - 8, y + 4, number(10.0**power)
            )
        )
    line = " ".join(f"{across(at)},{down(log)}" for at, log in enumerate(logs))
    parts.append(Markup('<polyline class="run" points="{}"/>').format(line))
    for at, ((label, kind, product), log) in enumerate(zip(points, logs, strict=True)):
        parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                kind, across(at), down(log), f"{one_line(label)}: {number(product)}"
            )
        )
    for x, anchor, text in (
        (_LEFT, "start", "the output"),
        (WIDTH - _RIGHT, "end", one_line(chain.ends)),
    ):
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                x, HEIGHT - 14, anchor, text
            )
        )
    label = (
        f"Norm of the gradient from the output ({number(points[0][2])}) back to {chain.ends} "
        f"({number(points[-1][2])})"
    )
    return Markup(
        '<figure class="flow"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<figcaption class="quiet">Norm of the gradient behind each factor, from the output back '
        "to {}.</figcaption></figure>"
    ).format(WIDTH, HEIGHT, one_line(label), Markup("").join(parts), one_line(chain.ends))
