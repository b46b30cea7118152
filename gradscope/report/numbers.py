"""Numbers as a person reads them: few digits, and how far a value is from its limit."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """``value`` in three significant digits: 0.062, 1,240, 3.1e-11, NaN, Inf."""
    if not math.isfinite(value):
        return exact(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 999.5:
        return f"{value:,.0f}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact(value: float) -> str:
    """``value`` with all its digits: NaN, Inf, -Inf, or the shortest text that reads back alike."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return repr(float(value))


def plural(value: int, noun: str, plural_noun: str | None = None) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{value:,} {noun if value == 1 else plural_noun or noun + 's'}"


def percent(share: float) -> str:
    """A share of 1 as a percentage: ``1.2 %``."""
    if share != 0 and abs(share) < 0.001:
        return "< 0.1 %"
    return f"{number(100 * share)} %"


def times(factor: float) -> str:
    """A factor: ``1.6x``, ``2,300x``, ``4e7x``."""
    rounded = float(f"{factor:.2g}")
    return f"{rounded:,.0f}x" if 100 <= rounded < 1e6 else f"{number(rounded)}x"


def margin(factor: float | None) -> str:
    """A passed check's distance from its limit: ``1.6x inside its limit``; None: ``yes or no``."""
    return "yes or no" if factor is None else f"{times(factor)} inside its limit"


def away(value: float, limit: float) -> str:
    """How far ``value`` is from ``limit``: ``640x below``, ``9.5 orders of magnitude above``, "".

    It is "" where no factor exists (one of the two is zero or not finite, or their signs differ)
    and where the two are equal to two digits.
    """
    if not (math.isfinite(value) and math.isfinite(limit)) or value == 0 or limit == 0:
        return ""
    # from the logarithms: the quotient of two floats may overflow
    powers = math.log10(abs(value)) - math.log10(abs(limit))
    if (value > 0) != (limit > 0) or abs(powers) < math.log10(1.05):
        return ""
    text = times(10 ** abs(powers)) if abs(powers) < 4 else decades(powers)
    return f"{text} {'above' if abs(value) > abs(limit) else 'below'}"


def decades(powers: float) -> str:
    """A number of powers of ten, up or down: ``9.5 orders of magnitude``."""
    return f"{abs(powers):.1f} orders of magnitude"


def steps(first: int, last: int) -> str:
    """A range of steps: ``step 17``, ``steps 0-199``."""
    return f"step {first}" if first == last else f"steps {first}-{last}"
