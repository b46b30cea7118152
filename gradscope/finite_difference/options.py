"""What a check is told to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 30.0
"""Time after which a check does less for what is left, and says so."""
DIRECTIONS = 2
"""Independent directions for each tensor: a fault of eight tolerances is missed by one in ten
thousand."""
CALLS = 2
"""Calls of one module that are checked: the first and the last."""

Progress = Callable[[int, int, str], None]
"""Told how many modules of how many are done, and the name of the next."""


@dataclass(frozen=True)
class Options:
    """Settings of one check.

    Attributes:
        seed: of directions, cotangents and moved points.
        directions: see ``DIRECTIONS``.
        seconds: see ``SECONDS``.
        second_order: also check the derivative of the backward pass.
        precision: also compare the backward pass in the model's own format with double precision.
        only_suspects: only modules whose own code calls a custom Function or that carry a hook.
        progress: see ``Progress``.
    """

    seed: int = 0
    directions: int = DIRECTIONS
    seconds: float = SECONDS
    second_order: bool = False
    precision: bool = True
    only_suspects: bool = False
    progress: Progress | None = None
