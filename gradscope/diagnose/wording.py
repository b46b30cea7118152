"""Numbers and lists as a person would say them; used in the texts of findings."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """``value`` with two or three significant digits: ``0.42``, ``1,600``, ``3.1e-11``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def factor(value: float) -> str:
    """A ratio: ``640x``."""
    return f"{number(value)}x"


def percent(share: float) -> str:
    """A share in per cent: ``71 %``, and ``<1 %`` where rounding would say none."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def count(amount: int, noun: str, plural: str = "") -> str:
    """``1 layer``, ``12 layers``, ``1,600 steps``; ``plural`` where an s does not make it."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def code(name: str) -> str:
    """A name in the user's code: the root module, whose name is empty, is called the model."""
    return f"`{name}`" if name else "the model"


def listing(names: Sequence[str], most: int = 3) -> str:
    """``a``, ``b`` and 3 more."""
    shown = [code(name) for name in names[:most]]
    left = len(names) - len(shown)
    if left:
        return f"{', '.join(shown)} and {left} more"
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
