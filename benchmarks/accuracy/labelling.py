"""The label of a training is measured: sick is what learns clearly less than its mended twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Label = Literal["sick", "healthy", "between", "unjudged"]

SICK = 0.5
"""A sick training removes less than this share of what its mended twin removes."""
HEALTHY = 0.8
"""A healthy one removes at least this share. Between the two lies neither: counted apart."""
FLOOR = 0.1
"""A twin that removes less of the trivial loss than this cannot judge anything."""
SEEDS = 3
"""Trainings of a case and of its twin, from different weights and in different order."""


def seeds(first: int) -> tuple[int, ...]:
    """The seeds over which a case with seed ``first`` is judged, ``first`` at their head."""
    group = first // SEEDS * SEEDS
    return tuple(group + (first + number) % SEEDS for number in range(SEEDS))


def label(shares: Sequence[float], twin: Sequence[float]) -> Label:
    """The label from shares of the trivial loss removed.

    Args:
        shares: of the case by seed; the first one is the training that the tools see.
        twin: of its mended twin by the same seeds.

    Returns:
        ``sick``: the mean over the seeds and the training that the tools see both remove less than
        SICK of the twin's mean, and no seed does better than its twin. ``healthy``: both remove at
        least HEALTHY of it. ``unjudged``: the twin itself learns less than FLOOR. ``between``: all
        else.
    """
    reached = sum(twin) / len(twin)
    if reached < FLOOR:
        return "unjudged"
    mean = sum(shares) / len(shares) / reached
    own = shares[0] / reached
    if mean < SICK and own < SICK and all(a < b for a, b in zip(shares, twin, strict=True)):
        return "sick"
    if mean >= HEALTHY and own >= HEALTHY:
        return "healthy"
    return "between"


def label_alone(shares: Sequence[float]) -> Label:
    """The label of a training without a twin: healthy if it learns at all."""
    learns = min(shares[0], sum(shares) / len(shares)) >= FLOOR
    return "healthy" if learns else "unjudged"
