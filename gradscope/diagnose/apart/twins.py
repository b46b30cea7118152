"""Runs that begin alike, bit for bit: until which step, and what was the first to differ.

Two runs from one seed on the same machine are equal to the last bit until something is changed.
Then the first difference, in the order in which a step computes things, stands at its cause: a
layer whose input is still equal and whose output is not; a parameter whose gradient is equal and
whose update is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Twins:
    """What two runs of one seed say.

    Attributes:
        same_until: last sampled step on which everything is equal; -1: not even the first.
        step: first step with a difference; None where there is none at all.
        layers: the layers or parameters at which it begins, in call order.
        what: what differs there: ``output``, ``update``, ``gradient``.
    """

    same_until: int
    step: int | None
    layers: tuple[str, ...] = ()
    what: str = ""


ALIKE = 0.5
"""Share of the parameters that must begin equal: of two seeds only constant ones (norms, zeros) do,
and a run whose weights are mostly its own is no twin."""


def twins(a: Recording, b: Recording) -> Twins | None:
    """Compare two recordings bit for bit; None where they were never alike."""
    tables = [
        (_values(a, name, keys, columns), _values(b, name, keys, columns))
        for name, keys, columns in (
            ("activations", ["step", "module", "role", "position"], ["sum", "sum_sq"]),
            ("gradients", ["step", "parameter"], ["sum", "sum_sq"]),
            ("updates", ["step", "parameter"], ["before_sq", "delta_sq"]),
        )
    ]
    steps = _first_steps(tables)
    if steps is None:
        return None
    same_until, step = steps
    if step is None:
        return Twins(same_until, None)
    if same_until < 0 and _same_weights(tables[2], step) < ALIKE:
        return None
    layers, what = _cause(a, tables, step)
    return Twins(same_until, step, layers, what)


Pair = tuple[pd.DataFrame, pd.DataFrame]


def _same_weights(updates: Pair, step: int) -> float:
    """Share of the parameters that are no whole numbers values are equal before a step."""
    one, other = updates
    both = one.index.intersection(other.index)
    both = both[both.get_level_values("step") == step]
    if not len(both):
        return 0.0
    left, right = one.loc[both, "before_sq"], other.loc[both, "before_sq"]
    # zeros and ones are the same for every seed: they are no sign
    telling = ~np.isin(left.to_numpy(float), (0.0,)) & (left.to_numpy(float) % 1 != 0)
    return float((left == right).to_numpy()[telling].mean()) if telling.any() else 0.0


def _values(recording: Recording, name: str, keys: list[str], columns: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = getattr(recording, name)
    plain = frame[[*keys, *columns]].copy()
    for key in keys:
        if isinstance(plain[key].dtype, pd.CategoricalDtype):
            plain[key] = plain[key].astype(str)
    return plain.set_index(keys).sort_index()


def _joined(pair: Pair) -> tuple[pd.Index, np.ndarray]:
    """Rows that both have, and whether they differ."""
    one, other = pair
    both = one.index.intersection(other.index)
    left, right = one.loc[both].to_numpy(float), other.loc[both].to_numpy(float)
    equal = (left == right) | (np.isnan(left) & np.isnan(right))
    return both, ~equal.all(axis=1)


def _first_steps(tables: list[Pair]) -> tuple[int, int | None] | None:
    first: int | None = None
    last = -1
    seen: set[int] = set()
    for pair in tables:
        index, differs = _joined(pair)
        if not len(index):
            continue
        steps = index.get_level_values("step").to_numpy(np.int64)
        seen.update(int(step) for step in np.unique(steps))
        if differs.any():
            at = int(steps[differs].min())
            first = at if first is None else min(first, at)
    if not seen:
        return None
    last = max((step for step in seen if first is None or step < first), default=-1)
    return last, first


def _cause(a: Recording, tables: list[Pair], step: int) -> tuple[tuple[str, ...], str]:
    order = {
        str(name): float(place)
        for name, place in zip(a.modules["name"], a.modules["order"].fillna(1e9), strict=True)
    }
    outputs = _differing(tables[0], step, Role.OUTPUT)
    inputs = _differing(tables[0], step, Role.INPUT)
    leaves = _leaves(order)
    changed = [
        module
        for module, differs in outputs.items()
        if differs and not inputs.get(module, False) and module in leaves
    ]
    if changed:
        return tuple(sorted(changed, key=lambda name: order.get(name, 1e9))), "output"
    gradients, updates = _differing(tables[1], step), _differing(tables[2], step)
    moved = [
        name for name, differs in updates.items() if differs and not gradients.get(name, False)
    ]
    if moved:
        return tuple(moved), "update"
    other = [name for name, differs in gradients.items() if differs]
    return tuple(other), "gradient" if other else ""


def _differing(pair: Pair, step: int, role: Role | None = None) -> dict[str, bool]:
    """Whether each layer differs on one step, in one role where there are several."""
    index, differs = _joined(pair)
    found: dict[str, bool] = {}
    for key, different in zip(index, differs, strict=True):
        if key[0] != step or (role is not None and key[2] != role):
            continue
        found[str(key[1])] = found.get(str(key[1]), False) or bool(different)
    return found


def _leaves(order: Mapping[str, float]) -> set[str]:
    called = {name for name, place in order.items() if place < 1e9}
    inner = {name.rpartition(".")[0] for name in called if name}
    above = set(inner)
    for name in inner:
        while name:
            name = name.rpartition(".")[0]
            above.add(name)
    return called - above
