"""Where two sides part: which layer, in which statistic, since which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose.apart.noise import noise
from gradscope.diagnose.apart.series import BY_KEY, STATISTICS, Floats, Key, Run, Statistic, windows

ENOUGH = 2
"""Windows that must part before it counts, where there are as many: one alone may be a wobble."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One statistic of one layer that is not the same on both sides.

    Attributes:
        layer: module or parameter.
        statistic: key of the statistic.
        name: the statistic in words.
        own: it is the layer's own, not handed on by its neighbours.
        since: first step of the first window that parts.
        a, b: the two values there, means over runs (geometric).
        times: b over a in the window where they are farthest apart.
        limit: factor that chance explains.
        strength: decades apart over the decades that chance explains.
    """

    layer: str
    statistic: str
    name: str
    own: bool
    since: int
    a: float
    b: float
    times: float
    limit: float
    strength: float


@dataclass(frozen=True, slots=True)
class Compared:
    """All that was compared.

    Attributes:
        differences: earliest and strongest first.
        tests: comparisons made.
        one_sided: statistics and layers that only one side has.
        steps: steps that all runs have in common.
    """

    differences: tuple[Difference, ...]
    tests: int
    one_sided: tuple[Key, ...]
    steps: int


def compare(a: Sequence[Run], b: Sequence[Run]) -> Compared:
    """Compare two sides; each is one or more runs as ``series`` gives them."""
    runs = (*a, *b)
    present = [set(run) for run in runs]
    common = set.intersection(*present)
    any_a: set[Key] = set().union(*present[: len(a)])
    any_b: set[Key] = set().union(*present[len(a) :])
    prepared = {}
    for key in sorted(common):
        steps = _common([run[key].index.to_numpy(np.int64) for run in runs])
        if len(steps):
            prepared[key] = windows(steps)
    tests = sum(len(groups) for groups in prepared.values())
    found = []
    for key, groups in prepared.items():
        difference = _difference(key, groups, a, b, tests)
        if difference is not None:
            found.append(difference)
    order = {statistic.key: place for place, statistic in enumerate(STATISTICS)}
    found.sort(key=lambda d: (d.since, not d.own, -d.strength, order[d.statistic]))
    longest = max((sum(map(len, groups)) for groups in prepared.values()), default=0)
    return Compared(tuple(found), tests, tuple(sorted(any_a ^ any_b)), longest)


def _common(steps: Sequence[np.ndarray]) -> np.ndarray:
    common = steps[0]
    for other in steps[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    return common


def _means(run: Run, key: Key, groups: Sequence[np.ndarray]) -> Floats:
    values = run[key]
    places = np.searchsorted(values.index.to_numpy(np.int64), np.concatenate(groups))
    sizes = np.array([len(group) for group in groups])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    totals: Floats = np.add.reduceat(values.to_numpy(np.float64)[places], starts) / sizes
    return totals


def _difference(
    key: Key, groups: Sequence[np.ndarray], a: Sequence[Run], b: Sequence[Run], tests: int
) -> Difference | None:
    statistic: Statistic = BY_KEY[key[0]]
    one = np.stack([_means(run, key, groups) for run in a])
    other = np.stack([_means(run, key, groups) for run in b])
    apart = other.mean(0) - one.mean(0)
    limit = max(noise(statistic.spread, one, other).limit(len(a), len(b), tests), statistic.least)
    parts = np.abs(apart) > limit
    if parts.sum() < min(ENOUGH, len(groups)):
        return None
    first = int(np.argmax(parts))
    widest = int(np.argmax(np.abs(apart)))
    return Difference(
        layer=key[1], statistic=key[0], name=statistic.name, own=statistic.own,
        since=int(groups[first][0]), a=float(10 ** one.mean(0)[first]),
        b=float(10 ** other.mean(0)[first]), times=float(10 ** apart[widest]),
        limit=float(10**limit), strength=float(np.abs(apart[widest]) / limit),
    )  # fmt: skip


def layers(differences: Sequence[Difference], owner: Mapping[str, str]) -> list[tuple[str, float]]:
    """The layers that differ in something of their own, the most changed first, with how much.

    Args:
        differences: of ``compare``.
        owner: module of each parameter.
    """
    strength: dict[str, float] = {}
    for difference in differences:
        if difference.own:
            layer = owner.get(difference.layer, difference.layer)
            strength[layer] = max(strength.get(layer, 0.0), difference.strength)
    return sorted(strength.items(), key=lambda item: -item[1])
