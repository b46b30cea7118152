"""Numbers in the page: a value with its unit, a time, the distance from a limit."""

from __future__ import annotations

import math

from gradscope.report import numbers

ABSENT = "–"


def number(value: float | None) -> str:
    """``value`` in three significant digits; a dash where there is none (None or NaN)."""
    return ABSENT if value is None or math.isnan(value) else numbers.number(value)


def percent(share: float | None) -> str:
    """A share of 1 as a percentage; a dash where there is none."""
    return ABSENT if share is None or math.isnan(share) else numbers.percent(share)


def measured(value: float | None, unit: str) -> str:
    """``value`` with its unit; NaN is a measured value here and is written out."""
    if value is None:
        return ABSENT
    if unit in ("share", "fraction") and math.isfinite(value):
        return numbers.percent(value)
    text = numbers.number(value)
    # "ratio 0.002 ratio" would say it twice: these units only name the kind of number
    return text if unit in ("", "ratio", "share", "fraction") else f"{text} {unit}"


def seconds(value: float | None) -> str:
    """A time in s, ms or µs."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= factor:
            return f"{numbers.number(value / factor)} {unit}"
    return f"{numbers.number(value / 1e-6)} µs"


def distance(value: float, limit: float | None) -> str:
    """Where ``value`` lies from ``limit``: "1,600× below it"; "" without a limit or a number."""
    if limit is None or not math.isfinite(value) or not math.isfinite(limit):
        return ""
    if value == limit:
        return "at it"
    side = "above it" if value > limit else "below it"
    if value == 0 or limit == 0 or (value > 0) != (limit > 0):
        return side
    factor = max(value / limit, limit / value)
    return f"{times(factor)} {side}" if factor >= 1.05 else f"just {side}"


def times(factor: float) -> str:
    """A factor with the multiplication sign: ``1.6×``."""
    return numbers.times(factor).replace("x", "×")
