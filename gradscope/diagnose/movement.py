"""How the weights move: how far, how straight, and whether a step goes too far.

All of it is free of scale: distances are over the weights' own first size, products of gradient
and update over those of the step itself. Matrices alone count: a bias or a norm's gain begins at
zero or one and has no size to compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.once import once
from gradscope.diagnose.traces import PAIRS, WINDOW, directions
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Movement:
    """How the weight matrices moved, up to the first non-finite step.

    Attributes:
        steps: sampled steps.
        distance: norm(w - w first) / norm(w first), median over the matrices, at the last step.
        farthest: the largest of the steps' medians.
        ratio: median update ratio over matrices and steps.
        peak_ratio: largest update ratio of a step (median over its matrices).
        aligned: norm(sum of 10 gradients)^2 / (10 x sum of their squared norms), mean over matrices
            and windows of the second half: 1 when all gradients are the same, 0.1 when they are
            noise.
        carried: <gradient after a step, that step> / <gradient before it, that step> over all
            matrices and pairs of following steps: 1 when the step is tiny, 0 when it goes to the
            bottom along its line, below 0 when it goes past it.
        pairs: pairs behind ``carried``.
        turning: mean cosine of following updates, over pairs: below 0 when steps go back and forth.
        parameter: name of the matrix that went farthest over its own size, "" if none.
    """

    steps: int
    distance: float
    farthest: float
    ratio: float
    peak_ratio: float
    aligned: float
    carried: float
    pairs: int
    turning: float
    parameter: str


@once
def movement(recording: Recording) -> Movement:
    """How the weight matrices that an optimizer holds moved."""
    updates = recording.updates
    usable = windows.before_trouble(recording, windows.sampled_steps(recording, "updates"))
    shapes = recording.parameters["shape"]
    matrices = [int(p) for p, shape in shapes.items() if len(shape or ()) >= 2]
    rows = updates[updates["step"].isin(usable) & updates["parameter_id"].isin(matrices)]
    # a matrix that begins at zero has no size to compare its way with
    first = rows.drop_duplicates("parameter_id").set_index("parameter_id")["before_sq"]
    first = first[first > 0]
    rows = rows[rows["parameter_id"].isin(first.index)]
    distance, farthest, parameter = _distances(recording, rows, first)
    by_step = rows.groupby("step")["ratio"].median()
    seen = directions(recording, matrices, usable)
    return Movement(
        steps=len(usable),
        distance=distance,
        farthest=farthest,
        ratio=float(rows["ratio"].median()) if len(rows) else math.nan,
        peak_ratio=float(by_step.max()) if len(by_step) else math.nan,
        aligned=seen.aligned,
        carried=seen.carried,
        pairs=seen.pairs,
        turning=seen.turning,
        parameter=parameter,
    )


def _distances(
    recording: Recording, rows: pd.DataFrame, first: pd.Series
) -> tuple[float, float, str]:
    if not len(rows):
        return math.nan, math.nan, ""
    with np.errstate(all="ignore"):
        way = np.sqrt(rows["distance_sq"] / rows["parameter_id"].map(first))
    medians = way.groupby(rows["step"]).median()
    last = way[rows["step"] == rows["step"].max()]
    parameter = rows.loc[last.idxmax(), "parameter_id"] if last.notna().any() else -1
    return (
        float(medians.iloc[-1]),
        float(medians.max()),
        recording.parameter_names.get(int(parameter), ""),
    )


@once
def rates(recording: Recording) -> Floats:
    """The learning rate by step, the largest over the groups; empty if unknown on any step."""
    cells = recording.steps["lr"]
    known = [[float(v) for v in cell or [] if v is not None] if isinstance(cell, list) else []
             for cell in cells]  # fmt: skip
    rate = np.array([max(values, default=math.nan) for values in known], np.float64)
    return rate if len(rate) and np.isfinite(rate).all() else np.zeros(0)


__all__ = ["PAIRS", "WINDOW", "Floats", "Movement", "movement", "rates"]
