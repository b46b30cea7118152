"""Where ranks that should hold the same model do not: what GS701 reads of the other ranks' files.

Only numbers that data parallelism keeps equal are compared: learning rates, gradients after the
reduction, parameters before each step. The loss and the activations belong to each rank's own data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One parameter (or one learning rate) that differs between ranks.

    Attributes:
        name: qualified name of the parameter; ``optimizer.group`` of a learning rate.
        first_step: first compared step on which it differs.
        compared, differing: steps compared, and those on which it differs.
        at_start: whether it differs on the first compared step already.
        agrees_again: whether it agrees on a compared step after ``first_step``.
        values: by rank, on ``first_step``; NaN where the rank has none.
        distance: largest difference over the steps, relative to the largest value.
    """

    name: str
    first_step: int
    compared: int
    differing: int
    at_start: bool
    agrees_again: bool
    values: Mapping[int, float]
    distance: float


def ranks_of(recording: Recording) -> dict[int, Recording]:
    """The recordings of the run's ranks by rank; forked processes are left out."""
    shown = recording.run.get("rank")
    found = {shown if isinstance(shown, int) else 0: recording}
    for name, other in recording.shards.items():
        digits = name.removeprefix("rank")
        if digits.isdigit():
            found[int(digits)] = other
    return dict(sorted(found.items()))


def same_model(ranks: Mapping[int, Recording]) -> bool:
    """Whether all ranks hold parameters of the same names, shapes and formats."""
    tables = [
        {str(row["name"]): (row["shape"], row["dtype"]) for _, row in r.parameters.iterrows()}
        for r in ranks.values()
    ]
    return all(table == tables[0] for table in tables[1:])


def sharded(recording: Recording) -> frozenset[str]:
    """Names of parameters of which this rank holds a part only (DTensor, as FSDP2 makes them)."""
    whole = recording.parameters
    return frozenset(str(name) for name in whole["name"][whole["shard"].notna()])


def common_steps(ranks: Mapping[int, Recording]) -> frozenset[int]:
    """Steps on which every rank has looked at the updates."""
    return frozenset.intersection(
        *(frozenset(map(int, r.updates["step"].unique())) for r in ranks.values())
    )


def gradients(ranks: Mapping[int, Recording], tolerance: float) -> list[Disagreement]:
    """Gradients that differ: their norms, or whether there is one at all."""
    return _compare(
        {rank: _keyed(r.gradients, r.gradients["norm"]) for rank, r in ranks.items()}, tolerance
    )


def weights(ranks: Mapping[int, Recording], tolerance: float) -> list[Disagreement]:
    """Parameters that differ: the norms of their sampled elements before a step."""
    return _compare(
        {rank: _keyed(r.updates, np.sqrt(r.updates["before_sq"])) for rank, r in ranks.items()},
        tolerance,
    )


def rates(ranks: Mapping[int, Recording], tolerance: float) -> list[Disagreement]:
    """Learning rates that differ."""
    return _compare({rank: _rates(r.steps) for rank, r in ranks.items()}, tolerance)


def _keyed(frame: pd.DataFrame, values: pd.Series) -> pd.Series:
    """``values`` by name and step: ids are given in the order of first sight, names are not."""
    index = [frame["parameter"].astype(str).to_numpy(), frame["step"].to_numpy(np.int64)]
    keyed = pd.Series(values.to_numpy(float), index=pd.MultiIndex.from_arrays(index))
    # a parameter that two optimizers hold has two rows in a step
    return keyed[~keyed.index.duplicated()]


def _rates(steps: pd.DataFrame) -> pd.Series:
    found: dict[tuple[str, int], float] = {}
    for step, optimizer, cell in zip(steps["step"], steps["optimizer"], steps["lr"], strict=True):
        for group, rate in enumerate(cell if isinstance(cell, list) else []):
            found[f"{optimizer}.{group}", int(step)] = np.nan if rate is None else float(rate)
    index = pd.MultiIndex.from_tuples(list(found), names=None) if found else _NOTHING
    return pd.Series(list(found.values()), index=index, dtype=float)


_NOTHING = pd.MultiIndex.from_arrays([np.array([], object), np.array([], np.int64)])


def _compare(tables: Mapping[int, pd.Series], tolerance: float) -> list[Disagreement]:
    steps = [frozenset(table.index.get_level_values(1)) for table in tables.values()]
    table = pd.DataFrame(dict(tables)).dropna(how="all")
    table = table[table.index.get_level_values(1).isin(frozenset.intersection(*steps))]
    table = table.sort_index(level=1, sort_remaining=False)
    if not len(table):
        return []
    distance = _distance(table.to_numpy(float))
    found = []
    for name, at in table.groupby(level=0, sort=False).indices.items():
        differs = np.flatnonzero(distance[at] > tolerance)
        if not len(differs):
            continue
        first = int(differs[0])
        row = table.iloc[at[first]]
        found.append(
            Disagreement(
                name=str(name),
                first_step=int(row.name[1]),
                compared=len(at),
                differing=len(differs),
                at_start=first == 0,
                agrees_again=len(differs) < len(at) - first,
                values={int(rank): float(row[rank]) for rank in tables},
                distance=float(distance[at].max()),
            )
        )
    return found


def _distance(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Relative spread ``[rows]`` of ``[rows, ranks]``; 1 where only some ranks have a number."""
    missing = np.isnan(values).any(axis=1)
    filled = np.where(np.isnan(values), 0.0, values)
    largest = np.abs(filled).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (filled.max(axis=1) - filled.min(axis=1)) / largest
    # equal infinities give NaN: no difference; all zeros likewise
    return np.where(missing, 1.0, np.nan_to_num(spread, nan=0.0))
