"""What the weights were before the first step, layer by layer in the order of the calls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from gradscope.recording.reader import Recording

NO_LAYERS = ("Embedding", "EmbeddingBag")
"""Tables: a row is looked up and not summed over, so that fan in says nothing of the variance."""


@dataclass(frozen=True, slots=True)
class StartingLayer:
    """The weight matrices of one module before the first step.

    Attributes:
        module: qualified name.
        parameter: name of its first matrix.
        units: rows of that matrix.
        fan_in: of that matrix, 0 if unknown.
        mean, std: of that matrix.
        scale: standard deviation x sqrt(fan in): the factor by which the layer changes the RMS of
            independent inputs of mean 0; NaN if unknown.
        equal_rows: all rows of each of its matrices are equal.
        constant: each of its matrices holds one number only.
    """

    module: str
    parameter: str
    units: int
    fan_in: int
    mean: float
    std: float
    scale: float
    equal_rows: bool
    constant: bool


def starting_layers(recording: Recording) -> tuple[StartingLayer, ...]:
    """The trained layers with weights that were called, in call order."""
    parameters, modules = recording.parameters, recording.modules
    held = parameters[
        parameters["requires_grad"].fillna(False).astype(bool)
        & parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
        & parameters["module"].isin(modules.index)
        & parameters["initial_std"].notna()
    ]
    layers = []
    for identity, rows in held.groupby("module"):
        own = modules.loc[int(identity)]
        if pd.isna(own["order"]) or own["torch_type"] in NO_LAYERS:
            continue
        layers.append((int(own["order"]), _layer(str(own["name"]), rows)))
    return tuple(layer for _, layer in sorted(layers, key=lambda pair: pair[0]))


def _layer(module: str, rows: pd.DataFrame) -> StartingLayer:
    first = rows.iloc[0]
    fan_in = 0 if pd.isna(first["fan_in"]) else int(first["fan_in"])
    std = float(first["initial_std"])
    return StartingLayer(
        module=module,
        parameter=str(first["name"]),
        units=int(first["shape"][0]),
        fan_in=fan_in,
        mean=float(first["initial_mean"]),
        std=std,
        scale=std * math.sqrt(fan_in) if fan_in else math.nan,
        equal_rows=bool(rows["equal_rows"].fillna(False).astype(bool).all()),
        constant=bool((rows["initial_std"] == 0).all()),
    )


__all__ = ["NO_LAYERS", "StartingLayer", "starting_layers"]
