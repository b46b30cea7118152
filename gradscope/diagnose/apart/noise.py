"""How far two runs part by chance: the spread between seeds, from runs and from a table.

With several runs a side their own spread counts, mixed with the table's as in empirical Bayes
(Smyth 2004, "Linear models and empirical Bayes methods", equation 4): of few runs it is known too
badly to be trusted alone. With one run a side only the table is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from gradscope.diagnose.apart.series import Floats

TABLE_ALONE, TABLE_BESIDE = 30, 4
"""Degrees of freedom that the table counts as: without runs of the same side, and beside them."""
WINDOWS_COUNT = 2
"""Windows of one run are no independent witnesses: together they count as so many."""
CHANCE = 0.01
"""Chance of a single false alarm over everything that is compared."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The spread of one run, in decades, and the degrees of freedom behind it."""

    spread: float
    freedom: float

    def limit(self, a: int, b: int, tests: int) -> float:
        """Decades by which the means of ``a`` and ``b`` runs may differ by chance.

        Args:
            a: runs on one side.
            b: runs on the other.
            tests: comparisons made; the chance of a false alarm is shared among them (Bonferroni).
        """
        quantile = student(1 - CHANCE / (2 * max(tests, 1)), self.freedom)
        return quantile * self.spread * math.sqrt(1 / a + 1 / b)


def noise(prior: float, a: Floats, b: Floats) -> Noise:
    """The noise of one statistic of one layer.

    Args:
        prior: the table's spread.
        a: means by run and window of one side, ``[runs, windows]``.
        b: those of the other.
    """
    freedom = (len(a) - 1) + (len(b) - 1)
    if freedom < 1:
        return Noise(prior, TABLE_ALONE)
    squares = sum(float(((side - side.mean(0)) ** 2).sum(0).mean()) for side in (a, b))
    own = squares / freedom
    weight = freedom * min(a.shape[1], WINDOWS_COUNT)
    mixed = (TABLE_BESIDE * prior**2 + weight * own) / (TABLE_BESIDE + weight)
    return Noise(math.sqrt(mixed), TABLE_BESIDE + weight)


def student(probability: float, freedom: float) -> float:
    """Quantile of Student's t (Cornish-Fisher, Abramowitz and Stegun 26.7.5).

    Args:
        probability: 0.5 to below 1.
        freedom: degrees of freedom, 4 or more.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
