"""What enters the model: its floating inputs where a layer with weights reads them as they are.

An input that the model normalises, embeds or divides by itself is no business of a rule on the
scale of the data: only tensors that reach weights unchanged are looked at. They are known by their
sums, which a reshape leaves alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.gains import trained_roots
from gradscope.diagnose.once import once
from gradscope.diagnose.start import NO_LAYERS
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

STEPS = 20
"""First sampled steps looked at: some batches; data do not change their units later."""

FEATURES = 2
"""Features below which nothing is gained by looking at each by itself."""


@dataclass(frozen=True, slots=True)
class EnteringTensor:
    """One floating input of a trained root over the first sampled steps.

    Attributes:
        root: name of the root module.
        position: index among the root's flattened inputs.
        reader: name of the first layer with weights that reads it.
        mean, std, rms: over all elements, all features together.
        max_abs: largest magnitude.
        offset: median over the features of |mean| / standard deviation, each by itself; NaN where
            features were not looked at one by one.
    """

    root: str
    position: int
    reader: str
    mean: float
    std: float
    rms: float
    max_abs: float
    offset: float = math.nan


@dataclass(frozen=True, slots=True)
class TargetScale:
    """The floating targets of the loss seen so far: mean, standard deviation, RMS."""

    operation: str
    site: str
    mean: float
    std: float
    rms: float


@once
def entering(recording: Recording) -> tuple[EnteringTensor, ...]:
    """The inputs that reach weights as they are, by root and position."""
    rows = recording.activations
    rows = rows[(rows["role"] == Role.INPUT) & (rows["nonfinite"] == 0) & (rows["count"] > 0)]
    rows = rows[rows["step"].isin(windows.sampled_steps(recording, "activations")[:STEPS])]
    readers = _readers(recording, rows)
    found = []
    for root in trained_roots(recording):
        own = rows[rows["module_id"] == root]
        for position, tensor in own.groupby("position"):
            reader = _reader_of(tensor, readers)
            if reader is None:
                continue
            count = float(tensor["count"].sum())
            mean, square = tensor["sum"].sum() / count, tensor["sum_sq"].sum() / count
            found.append(
                EnteringTensor(
                    root=recording.module_names.get(root, ""),
                    position=int(position),
                    reader=reader,
                    mean=float(mean),
                    std=math.sqrt(max(float(square - mean**2), 0.0)),
                    rms=math.sqrt(float(square)),
                    max_abs=float(tensor["max_abs"].max()),
                    offset=_offset(recording, root, int(position)),
                )
            )
    return tuple(found)


def _offset(recording: Recording, root: int, position: int) -> float:
    """Median of |mean| / std over the features of one input; constant features are left out."""
    looks = recording.features
    looks = looks[(looks["kind"] == "input") & (looks["module"] == root)]
    looks = looks[looks["position"] == position]
    if not len(looks):
        return math.nan
    last = looks.iloc[-1]
    pairs = zip(last["mean"] or [], last["std"] or [], strict=False)
    ratios = [abs(mean) / std for mean, std in pairs if mean is not None and std]
    return float(np.median(ratios)) if len(ratios) >= FEATURES else math.nan


@once
def target_scale(recording: Recording) -> TargetScale | None:
    """The floating target with the largest RMS, None where there is none."""
    losses = recording.losses
    losses = losses[losses["target_mean"].notna() & losses["target_std"].notna()]
    # a probability or a label as a float is in its own unit already
    losses = losses[~losses["operation"].isin(("bce", "bce_with_logits", "kl_div"))]
    if not len(losses):
        return None
    last = losses.groupby(["site", "operation"], as_index=False).last()
    last["rms"] = np.hypot(last["target_mean"], last["target_std"])
    row = last.loc[last["rms"].idxmax()]
    return TargetScale(
        str(row["operation"]), str(row["site"]), float(row["target_mean"]),
        float(row["target_std"]), float(row["rms"]),
    )  # fmt: skip


def _readers(recording: Recording, rows: pd.DataFrame) -> pd.DataFrame:
    """Input rows of the modules that own weight matrices, in call order."""
    modules, parameters = recording.modules, recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    owners = {int(module) for module in parameters["module"][matrix]}
    tables = {int(m) for m in modules["module"][modules["torch_type"].isin(NO_LAYERS)]}
    order = modules["order"].astype("float64")
    own = rows[rows["module_id"].isin(owners - tables)]
    return own.assign(order=own["module_id"].map(order)).sort_values("order", kind="stable")


def _reader_of(tensor: pd.DataFrame, readers: pd.DataFrame) -> str | None:
    step = int(tensor["step"].iloc[0])
    row = tensor.iloc[0]
    near = readers[readers["step"] == step]
    # a module that is called several times sums over its calls: the sums per element are compared
    same = np.isclose(near["sum_sq"] / near["count"], row["sum_sq"] / row["count"], rtol=1e-5)
    same &= np.isclose(near["max_abs"], row["max_abs"], rtol=1e-6)
    return str(near["module"].iloc[int(np.flatnonzero(same)[0])]) if same.any() else None


__all__ = ["EnteringTensor", "TargetScale", "entering", "target_scale"]
