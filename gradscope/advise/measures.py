"""Numbers of this run from which the fixes take their limits and their reasons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.advise.layers import Layer
from gradscope.diagnose.finding import Finding
from gradscope.diagnose.once import once
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

LARGEST_SLOPE: dict[Activation, float] = {Activation.SIGMOID: 0.25, Activation.HARD: 1.0}
"""Largest derivative of an activation where it is not about 1."""
USUAL_UPDATE = 3e-3
"""Update ratio that a lowered learning rate aims at.

The rule of thumb is 1e-3 of the weight a step; runs that learn lie between 1e-4 and 1e-2, and
runs with too high a rate above 1e-2, so the aim is the geometric middle of the upper decade.
"""
LARGEST_FACTOR = 1_000.0
EARLY_STEPS = 20
"""Sampled steps from which the update ratio is taken: later ones have already run away."""


def mean_slope(recording: Recording, layer: Layer) -> float | None:
    """Mean derivative of an activation module over the sampled steps, None if not recorded."""
    frame = recording.units
    slopes = frame.loc[frame["module_id"] == layer.id, "slope"].dropna()
    if slopes.empty or layer.activation is None:
        return None
    return float(slopes.mean()) * LARGEST_SLOPE.get(layer.activation, 1.0)


def total_norms(recording: Recording, until: int | None = None) -> npt.NDArray[np.float64]:
    """Finite total gradient norms ``[steps]``, before clipping where it was recorded.

    Args:
        recording: the run.
        until: the last step to take, None for all.
    """
    steps = recording.steps
    values = steps["norm_before_clip"].fillna(steps["norm"]).to_numpy(float)
    number = steps["step"].to_numpy(float)
    if not np.isfinite(values).any():
        sums = recording.gradients.groupby("step", observed=True)["sum_sq"].sum(min_count=1)
        values, number = np.sqrt(sums.to_numpy(float)), sums.index.to_numpy(float)
    keep = np.isfinite(values) & (values > 0)
    if until is not None:
        keep &= number <= until
    return np.asarray(values[keep], dtype=np.float64)


def update_ratio(recording: Recording, finding: Finding) -> float | None:
    """Median of the largest early update ratio among the finding's weights, None if not recorded.

    The finding's parameters where it names some, else all with two or more axes: a bias that
    starts at 0 has a huge relative change and harms nobody.
    """
    frame = recording.updates
    frame = frame[frame["ratio"].notna() & np.isfinite(frame["ratio"])]
    shapes = recording.parameters["shape"]
    matrices = {int(i) for i, shape in shapes.items() if isinstance(shape, list) and len(shape) > 1}
    frame = frame[frame["parameter_id"].isin(matrices)] if matrices else frame
    named = frame[frame["parameter"].isin(finding.parameters)]
    frame = frame if named.empty else named
    if frame.empty:
        return None
    early = sorted(frame["step"].unique())[:EARLY_STEPS]
    frame = frame[frame["step"].isin(early)]
    medians = frame.groupby("parameter_id", observed=True)["ratio"].median()
    return float(medians.max())


def rate_factor(ratio: float | None) -> float:
    """How many times lower the learning rate should be: a power of ten from 10 to 1,000."""
    if ratio is None or ratio <= 0:
        return 10.0
    return float(np.clip(10.0 ** math.ceil(math.log10(ratio / USUAL_UPDATE)), 10.0, LARGEST_FACTOR))


def initial(recording: Recording, layer: Layer, name: str) -> dict[str, Any] | None:
    """The ``parameters`` row of a layer's ``weight`` or ``bias``, None if it has none."""
    return _by_module(recording).get((layer.id, name))


@once
def _by_module(recording: Recording) -> dict[tuple[int, str], dict[str, Any]]:
    """Rows of ``parameters`` by module and last part of the path; the first one counts."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for row in recording.parameters.to_dict("records"):
        if pd.isna(row["module"]):
            continue  # it stands in no module
        key = int(row["module"]), str(row["path"]).rpartition(".")[2]
        found.setdefault(key, {str(column): value for column, value in row.items()})
    return found


def rounded(value: float, digits: int = 2) -> float:
    """``value`` with that many significant digits."""
    return float(f"{value:.{digits}g}")
