"""A trial as pictures: losses with and without the fix, and the gradient at each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from gradscope.diagnose.finding import Mended, Trial
from gradscope.report import summary
from gradscope.report.numbers import plural
from gradscope.report.view.numerals import number
from gradscope.report.view.prose import sentence

_WIDTH, _HEIGHT = 320, 96
_PAD = 6
_HUGE = 1e6
"""Losses above the square of so many times the smallest one end the axis: they would flatten it."""


@dataclass(frozen=True)
class Picture:
    """A chart with the words beside it.

    Attributes:
        svg: the picture.
        caption: what it shows, with its numbers.
    """

    svg: Markup
    caption: str


@dataclass(frozen=True)
class MendedView:
    """The trial with the best fix of each finding.

    Attributes:
        fixes: code and title of each.
        status: the trial's status.
        tried: what came of it.
        curves: the losses, None where there are none.
    """

    fixes: tuple[tuple[str, Markup], ...]
    status: str
    tried: Markup
    curves: Picture | None


def curves(trial: Trial) -> Picture | None:
    """Losses of control and treated training: the mean over the seeds, and their whole range."""
    control, treated = _band(trial.curves_control), _band(trial.curves_treated)
    if control is None or treated is None:
        return None
    what = "Loss" if trial.measure == "loss" else "Share of wrong answers"
    seeds = plural(trial.seeds, "seed")
    caption = (
        f"{what} over {plural(trial.steps, 'step')}, mean and range of {seeds}: "
        f"{_end(trial.loss_treated)} at the end with the fix, {_end(trial.loss_control)} without it"
    )
    bands = [("quiet", control), ("line", treated)]
    svg = _chart(bands, caption, logarithmic=trial.measure == "loss")
    return Picture(svg, caption) if svg else None


def reach(trial: Trial) -> Picture | None:
    """The gradient at each layer's output, without the fix and with it."""
    known = [r for r in trial.reach if np.isfinite(r.control) or np.isfinite(r.treated)]
    if len(known) < 2:
        return None
    first = known[0]
    caption = (
        f"Gradient that reaches each layer, from the input on the left to the loss, on step "
        f"{trial.steps:,}: at {first.module or 'the model'} {_size(first.treated)} with the fix, "
        f"{_size(first.control)} without it"
    )
    control = np.array([r.control for r in known])
    treated = np.array([r.treated for r in known])
    svg = _chart(
        [("quiet", (control, control, control)), ("line", (treated, treated, treated))],
        caption,
        logarithmic=True,
    )
    return Picture(svg, caption) if svg else None


def mended_view(mended: Mended | None) -> MendedView | None:
    """The run with all of them together; None where it shows nothing that a card does not show."""
    if mended is None or len(mended.fixes) < 2:
        return None
    return MendedView(
        tuple((code, sentence(title)) for code, title in mended.fixes),
        mended.trial.status,
        sentence(summary.tried_in_words(mended.trial)),
        curves(mended.trial),
    )


_Curve = npt.NDArray[np.float64]


def _band(rows: Sequence[Sequence[float]]) -> tuple[_Curve, _Curve, _Curve] | None:
    """Least, mean and largest value on each step."""
    longest = max(map(len, rows), default=0)
    if longest < 2:
        return None
    table = np.full((len(rows), longest), np.nan)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    table[~np.isfinite(table)] = np.nan
    seen = np.isfinite(table).any(axis=0)
    low, middle, high = (np.full(longest, np.nan) for _ in range(3))
    if not seen.any():
        return None
    low[seen] = np.nanmin(table[:, seen], axis=0)
    middle[seen] = np.nanmean(table[:, seen], axis=0)
    high[seen] = np.nanmax(table[:, seen], axis=0)
    return low, middle, high


def _chart(
    bands: Sequence[tuple[str, tuple[_Curve, _Curve, _Curve]]], label: str, *, logarithmic: bool
) -> Markup:
    every = np.concatenate([values for _, band in bands for values in band])
    finite = every[np.isfinite(every)]
    positive = finite[finite > 0]
    logs = logarithmic and len(positive) == len(finite) and len(finite) > 0
    if logs and positive.max() / positive.min() < 10:
        logs = False

    def scaled(values: _Curve) -> _Curve:
        if not logs:
            return values
        return np.log10(np.minimum(values, float(positive.min()) * _HUGE**2))

    levels = scaled(finite)
    if len(levels) < 2:
        return Markup("")
    low, high = float(levels.min()), float(levels.max())
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    steps = max(len(band[1]) for _, band in bands)

    def point(at: int, value: float) -> str:
        x = _PAD + (_WIDTH - 2 * _PAD) * at / max(steps - 1, 1)
        y = _PAD + (_HEIGHT - 2 * _PAD) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for style, (least, middle, most) in bands:
        bottom, top = scaled(least), scaled(most)
        shown = [at for at in range(len(bottom)) if np.isfinite(bottom[at])]
        if len(shown) > 1 and not np.array_equal(bottom, top, equal_nan=True):
            outline = [point(at, top[at]) for at in shown]
            outline += [point(at, bottom[at]) for at in reversed(shown)]
            parts.append(
                Markup('<polygon class="{}" points="{}"/>').format(style, " ".join(outline))
            )
        line = scaled(middle)
        points = " ".join(point(at, line[at]) for at in range(len(line)) if np.isfinite(line[at]))
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, points))
    return Markup(
        '<svg class="spark trial" viewBox="0 0 {} {}" role="img" aria-label="{}" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(_WIDTH, _HEIGHT, label, Markup("").join(parts))


def _end(values: Sequence[float]) -> str:
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return "not finite"
    if len(finite) == 1 or min(finite) == max(finite):
        text = number(min(finite))
    else:
        text = f"{number(min(finite))} to {number(max(finite))}"
    return text if len(finite) == len(values) else f"{text}, and not finite on the other seeds"


def _size(value: float) -> str:
    return number(value) if np.isfinite(value) else "nothing"
