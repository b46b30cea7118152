"""The terms of a loss, each for itself: does it learn, and what it sends into the shared trunk.

A sum of losses hides a term that stands still. Each term is a loss operation of its own in the
graph, with its own value and its own trivial loss, so the harm gate can be asked of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.gains import median
from gradscope.diagnose.learning import EARLY_EXCESS, STUCK, falls
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
TENSOR = ["sum", "sum_sq", "max_abs", "count"]
"""What makes two rows of one step the same tensor: a tensor with several readers is read once, so
these numbers agree in every bit."""


@dataclass(frozen=True, slots=True)
class Term:
    """One loss operation behind one backward call.

    Attributes:
        site: ``file:line`` of the backward call.
        index: ordinal of the operation behind it.
        operation: see ``facts.LOSSES``.
        module, module_id: the module whose output it reads; "" and -1 where that is not known.
        steps: steps on which its value is known.
        excess: mean of the last values / trivial loss of this term; NaN without one.
        plateau: the same over the second half of the run.
        falling: whether it falls over the second half of the run.
    """

    site: str
    index: int
    operation: str
    module: str
    module_id: int
    steps: int
    excess: float
    plateau: float
    falling: bool

    @property
    def stuck(self) -> bool:
        """Whether this term is at its trivial level and does not fall."""
        return self.excess > EARLY_EXCESS and self.plateau > STUCK and not self.falling


def loss_terms(recording: Recording) -> tuple[Term, ...]:
    """The terms of all losses, in the order in which they were met."""
    losses = recording.losses
    losses = losses[losses["term"].notna() & losses["value"].notna()]
    return tuple(
        _term(recording, str(site), int(index), rows)
        for (site, index), rows in losses.groupby(["site", "term"], sort=False)
    )


def _term(recording: Recording, site: str, index: int, rows: pd.DataFrame) -> Term:
    by_step = rows.groupby("step")["value"].mean().to_numpy(float)
    values = by_step[np.isfinite(by_step)]
    baselines = rows["baseline"].dropna()
    baseline = float(baselines.iloc[-1]) if len(baselines) else math.nan
    module = int(rows["module"].fillna(-1).iloc[-1])
    tail = min(50, max(5, len(values) // 20))
    scale = baseline if baseline > 0 else math.nan
    return Term(
        site=site,
        index=index,
        operation=str(rows["operation"].iloc[-1]),
        module=recording.module_names.get(module, ""),
        module_id=module,
        steps=len(values),
        excess=float(values[-tail:].mean()) / scale if len(values) else math.nan,
        plateau=float(values[len(values) // 2 :].mean()) / scale if len(values) else math.nan,
        falling=falls(values),
    )


# ---------------------------------------------------------------------- at the trunk


@dataclass(frozen=True, slots=True)
class Push:
    """What one term sends into the tensor that it shares with others.

    Attributes:
        term: the term.
        head: name of the first module behind the shared tensor on the way to this term.
        norm: estimated norm of this term's gradient at the shared tensor: norm at the output of
            ``head`` x norm of its weight / sqrt(its outputs), which is what a gradient of random
            direction becomes. (The gradient at the tensor itself is recorded as a sum only.)
    """

    term: Term
    head: str
    norm: float


def pushes(recording: Recording, terms: Sequence[Term]) -> tuple[Push, ...]:
    """What each of ``terms`` sends into a tensor that at least two of them share.

    Returns:
        one entry for each term whose way back to the shared tensor was recorded, at the tensor
        nearest the heads; empty where no two terms were found to share one.
    """
    window = windows.last_window(recording, "activations")
    if not len(window):
        return ()
    rows = recording.activations
    rows = rows[rows["step"].isin(window) & (rows["nonfinite"] == 0)]
    ways = {term: _way_back(recording, rows, term.module_id) for term in terms}
    best: tuple[Push, ...] = ()
    for readers in _shared_tensors(recording, rows, int(window[-1])):
        heads = {term: _head(recording, way, readers) for term, way in ways.items()}
        found = {term: head for term, head in heads.items() if head >= 0}
        if len(set(found.values())) < 2 or len(found) < len(best):
            continue
        best = tuple(
            Push(term, recording.module_names[head], _at_trunk(recording, rows, head))
            for term, head in found.items()
        )
    return best


def _shared_tensors(recording: Recording, rows: pd.DataFrame, step: int) -> list[set[int]]:
    """Modules that read one tensor with a gradient, a set a tensor, in call order."""
    rows = rows[rows["step"] == step]
    with_gradient = set(rows["module_id"][rows["role"] == Role.GRAD_INPUT])
    inputs = rows[(rows["role"] == Role.INPUT) & rows["module_id"].isin(with_gradient)]
    inputs = inputs[inputs["sum_sq"] > 0]
    order = recording.modules["order"]
    found = []
    for _, group in inputs.groupby(TENSOR):
        readers = {int(m) for m in group["module_id"]}
        if len(readers) > 1:
            found.append(readers)
    first = {m: order.get(m, pd.NA) for readers in found for m in readers}
    return sorted(found, key=lambda r: min(math.inf if pd.isna(first[m]) else first[m] for m in r))


def _way_back(recording: Recording, rows: pd.DataFrame, module: int) -> list[int]:
    """``module`` and the leaf modules before it, as far as each reads another's output as it is."""
    inputs = rows[(rows["role"] == Role.INPUT) & (rows["position"] == 0)]
    source = inputs.groupby("module_id")["source_id"].last().to_dict()
    way: list[int] = []
    while module >= 0 and module not in way:
        way.append(module)
        module = int(source.get(module, -1))
    return way


def _head(recording: Recording, way: Sequence[int], readers: set[int]) -> int:
    """The first module with weights behind the tensor that ``readers`` read, on ``way``; or -1."""
    modules = recording.modules
    for module in way:
        path = str(modules.at[module, "path"])
        for reader in readers:
            outer = str(modules.at[reader, "path"])
            if reader == module or (outer and path.startswith(f"{outer}.")):
                inside = [
                    int(row["module"])
                    for _, row in modules[modules["root"] == modules.at[reader, "root"]].iterrows()
                    if _below(str(row["path"]), outer)
                    and row["leaf"] and row["parameters"] and not pd.isna(row["order"])
                ]  # fmt: skip
                return min(inside, key=lambda m: modules.at[m, "order"], default=-1)
    return -1


def _below(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _at_trunk(recording: Recording, rows: pd.DataFrame, head: int) -> float:
    at_output = rows[(rows["role"] == Role.GRAD_OUTPUT) & (rows["module_id"] == head)]
    norm = np.sqrt(at_output.groupby("step")["sum_sq"].sum().to_numpy(float))
    parameters = recording.parameters
    own = parameters[(parameters["module"] == head)]
    weights = [int(p) for p in own["parameter"] if len(own.at[p, "shape"] or ()) >= 2]
    updates = recording.updates
    updates = updates[updates["parameter_id"].isin(weights[:1])]
    if not len(updates):
        return math.nan
    last = updates.tail(windows.LAST)
    weight_sq = median((last["before_sq"] * last["count"] / last["looked_at"]).to_numpy(float))
    return median(norm) * math.sqrt(weight_sq / float(own.at[weights[0], "shape"][0]))
