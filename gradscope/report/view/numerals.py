"""Numbers in the page: a value with its unit, a time, the distance from a limit."""

from __future__ import annotations

import math
import re

from gradscope.report import numbers

ABSENT = "–"
DECADES = "decades"
"""The unit of a decimal logarithm."""
LARGEST = 300
"""Decades up to which a float holds the factor."""
_TIMES = re.compile(r"(?<![\w.])(\d[\d,.]*(?:e-?\d+)?)x(?!\w)")
"""A factor, and no name that ends like one (conv3x)."""


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
    if unit == DECADES and 0 <= value < LARGEST:
        # a logarithm is said as the factor that the headline says, too
        return numbers.times(10**value)
    if unit == "x":
        return f"{text}x"
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


def distance(value: float, limit: float | None, unit: str = "") -> str:
    """Where ``value`` lies from ``limit``: "1,600× below it"; "" without a limit or a number.

    Of two numbers of decades the distance is that of the factors that they stand for.
    """
    if unit == DECADES and limit is not None and abs(value - limit) < LARGEST:
        return distance(10 ** (value - limit), 1.0)
    if limit is None or not math.isfinite(value) or not math.isfinite(limit):
        return ""
    if value == limit:
        return "at it"
    side = "above it" if value > limit else "below it"
    if value == 0 or limit == 0 or (value > 0) != (limit > 0):
        return side
    factor = max(value / limit, limit / value)
    return f"{times(factor)} {side}" if factor >= 1.05 else f"just {side}"


def away(value: float, limit: float, unit: str) -> str:
    """``distance`` as the formats without a table say it: "640x below"."""
    if unit == DECADES and abs(value - limit) < LARGEST:
        return numbers.away(10 ** (value - limit), 1.0)
    return numbers.away(value, limit)


def times(factor: float) -> str:
    """A factor with the multiplication sign: ``1.6×``."""
    return crossed(numbers.times(factor))


def crossed(text: str) -> str:
    """``text`` with the multiplication sign behind its factors, for which ASCII has an x."""
    return _TIMES.sub(r"\1×", text)
