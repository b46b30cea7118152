"""Blocks of neighbouring layers: what a map of very many layers shows instead of each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

ROWS = 60
"""Most rows that a map shows at once: more would have no room for their names."""
_FEW = 8
"""Fewer blocks than this would hide where in the model something happens."""

Block = tuple[str, int, int]
"""Name, first row, and the row after the last."""


def blocks(names: Sequence[str]) -> list[Block] | None:
    """Blocks in the order of ``names``; None where all layers fit.

    A block is what shares the longest beginning of its path that makes few enough of them
    (``encoder.layers.3``); where no beginning does, as many neighbours as fit.
    """
    if len(names) <= ROWS:
        return None
    paths = [name.split(".") for name in names]
    for depth in range(max(map(len, paths)) - 1, 0, -1):
        runs = _runs([".".join(path[:depth]) for path in paths])
        if _FEW <= len(runs) <= ROWS:
            return _named_once(runs, names)
    size = -(-len(names) // ROWS)
    edges = [*range(0, len(names), size), len(names)]
    return [(_range(names, first, end), first, end) for first, end in pairwise(edges)]


def _runs(keys: Sequence[str]) -> list[Block]:
    found: list[Block] = []
    for key, members in groupby(keys):
        first = found[-1][2] if found else 0
        found.append((key, first, first + len(list(members))))
    return found


def _named_once(runs: Sequence[Block], names: Sequence[str]) -> list[Block]:
    """A beginning that comes back further down (a shared decoder) is named by its ends there."""
    often = Counter(name for name, _, _ in runs)
    return [
        (name if often[name] == 1 else _range(names, first, end), first, end)
        for name, first, end in runs
    ]


def _range(names: Sequence[str], first: int, end: int) -> str:
    return names[first] if end == first + 1 else f"{names[first]} … {names[end - 1]}"
