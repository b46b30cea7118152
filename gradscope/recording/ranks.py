"""Puts the parts of sharded parameters together that the ranks of a run have recorded.

With FSDP2 and other uses of DTensor each rank holds a part of a parameter, and records sums over
that part. They add up to those of the whole; no rank knew it. What cannot be put together (a rank's
file is missing, or it did not look at a step) is left out: a part is not the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradscope.recording.facts import State
from gradscope.recording.merge import merge_by, merge_updates
from gradscope.recording.names import parameter_names
from gradscope.recording.schema import Rows

Records = Mapping[str, list[dict[str, Any]]]
_MAX_NAMED = 8


class Part:
    """What one rank recorded.

    Attributes:
        rank: the rank.
        rows, records: its tables, see ``Recording``.
    """

    def __init__(self, rank: int, rows: Mapping[str, Rows], records: Records) -> None:
        self.rank = rank
        self.rows = rows
        self.records = records
        latest = {item["parameter"]: item for item in records.get("parameters", [])}
        modules = {item["module"]: item for item in records.get("modules", [])}
        names = parameter_names(list(latest.values()), list(modules.values()))
        self.sharded = {
            names[identity]: (identity, item["shard"])
            for identity, item in latest.items()
            if _is_shard(item.get("shard"))
        }
        self.optimizers = {identity: item.get("optimizer") for identity, item in latest.items()}


def put_together(parts: list[Part]) -> tuple[dict[str, Rows], dict[str, list[Any]], list[str]]:
    """Row and record tables of the first part, with sharded parameters whole.

    Args:
        parts: of the ranks that were read; the first one's tables are completed.

    Returns:
        The tables that change, by name, and sentences about what could not be put together. All
        are empty for a run without sharded parameters.
    """
    first = parts[0]
    if not first.sharded:
        return {}, {}, []
    ids = np.array([identity for identity, _ in first.sharded.values()])
    whole, said = _complete(parts)
    steps = _common_steps([part for part, _ in whole]) if whole else np.zeros(0, np.int64)
    rows: dict[str, Rows] = {}
    for table, merge in (("gradients", _moments), ("updates", merge_updates)):
        own = first.rows.get(table)
        if own is None:
            continue
        rest = own[~np.isin(own["parameter"], ids)]
        pieces = [_renamed(part, table, known, steps) for part, known in whole]
        merged = merge([piece for piece in pieces if len(piece)]) if any(map(len, pieces)) else None
        joined = rest if merged is None else np.concatenate([rest, merged])
        rows[table] = joined[np.lexsort([joined["parameter"], joined["step"]])]
    sketches = first.rows.get("sketches")
    if sketches is not None:
        # sketches of parts do not add up: equal positions share a sign
        rows["sketches"] = sketches[~np.isin(sketches["parameter"], ids)]
    return rows, {"steps": _norms(first, rows.get("gradients"))}, said


def _complete(parts: list[Part]) -> tuple[list[tuple[Part, dict[int, int]]], list[str]]:
    """The parts that make up the whole, with the first one's id of each of their parameters."""
    first = parts[0]
    count = max(shard["parts"] for _, shard in first.sharded.values())
    whole = []
    for part in parts:
        known = {
            identity: first.sharded[name][0]
            for name, (identity, shard) in part.sharded.items()
            if name in first.sharded and not shard["copy"]
        }
        if known:
            whole.append((part, known))
    if len(whole) < count:
        ranks = ", ".join(str(part.rank) for part, _ in whole[:_MAX_NAMED])
        return [], [
            f"parameters are sharded over {count} ranks and only parts of rank {ranks} were found: "
            "their gradients and updates are left out"
        ]
    return whole, []


def _common_steps(parts: list[Part]) -> npt.NDArray[np.int64]:
    steps = None
    for part in parts:
        table = part.rows.get("gradients")
        own = np.unique(table["step"]) if table is not None else np.zeros(0, np.int64)
        steps = own if steps is None else np.intersect1d(steps, own)
    return np.zeros(0, np.int64) if steps is None else steps


def _renamed(
    part: Part, table: str, known: Mapping[int, int], steps: npt.NDArray[np.int64]
) -> Rows:
    """Rows of the parameters in ``known`` on ``steps``, under the first part's ids."""
    own = part.rows.get(table)
    if own is None or not len(own):
        return np.zeros(0, part.rows["gradients"].dtype if own is None else own.dtype)
    chosen = own[np.isin(own["parameter"], list(known)) & np.isin(own["step"], steps)].copy()
    order = np.array(sorted(known))
    names = np.array([known[identity] for identity in order])
    chosen["parameter"] = names[np.searchsorted(order, chosen["parameter"])]
    return chosen


def _moments(pieces: list[Rows]) -> Rows:
    merged = merge_by(pieces, ("step", "parameter"))
    # an empty part is all zeros; of several parts the numbers decide
    zero = (merged["state"] == State.FINITE) & (merged["max_abs"] == 0)
    merged["state"][zero] = State.EXACT_ZERO
    return merged


def _norms(first: Part, gradients: Rows | None) -> list[dict[str, Any]]:
    """The records of steps, with the norm over whole parameters where they were looked at."""
    records = []
    for item in first.records.get("steps", []):
        if gradients is None or not item.get("parameters_sampled"):
            records.append(item)
            continue
        mine = gradients[gradients["step"] == item["step"]]
        held = [first.optimizers.get(int(p)) == item.get("optimizer") for p in mine["parameter"]]
        mine = mine[np.array(held, bool) & (mine["state"] != State.NONE)]
        norm = None
        if len(mine):
            norm = math.nan if mine["nonfinite"].any() else math.sqrt(mine["sum_sq"].sum())
        records.append({**item, "norm": norm})
    return records


def _is_shard(shard: Any) -> bool:
    return (
        isinstance(shard, dict)
        and isinstance(shard.get("parts"), int)
        and isinstance(shard.get("copy"), bool)
    )


def unfinished(runs: Mapping[int, tuple[Mapping[str, Any], int, bool]]) -> list[str]:
    """Sentences about ranks that failed or ended without a word.

    Args:
        runs: by rank its facts, the number of its steps, and whether it is being written.
    """
    if len(runs) < 2:
        return []
    said = []
    for rank, (facts, steps, alive) in sorted(runs.items()):
        plural = "" if steps == 1 else "s"
        if facts.get("failed"):
            said.append(f"rank {rank}: {facts['failed']}")
        elif not facts.get("finished") and not alive:
            said.append(f"rank {rank} ended after {steps} step{plural} without finishing its file")
    return said
