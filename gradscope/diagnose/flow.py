"""How the gradient travels from the loss to the input: its size by depth and the gain of each
layer.

The chain rule multiplies: the loss gradient at a module's input is that at its output times the
module's gain. Sizes are norms of the whole tensor, not RMS: initialisations by fan in keep the
norm of the gradient (He et al. 2015, section 2.2), and a convolution on many positions or a
pooling changes the RMS without anything being wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
PARTS = ("weight", "activation", "other")


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """The gradient's size by depth over one window.

    Attributes:
        root: id of the root module.
        steps: steps looked at.
        layers: from the input to the loss, in call order.
        decades: powers of ten by which the strongest gradient that reaches the first weights is
            below the strongest one behind them; 0 where nothing is lost; NaN where it cannot be
            said.
        weight_decades, activation_decades, other_decades: the parts of a chain's loss that the
            weights, the activations' slopes and the rest account for; NaN where gains are unknown.
        growth: powers of ten by which the largest gradient at any weights is above that at the last
            weights (growth toward the input).
        forward_growth: powers of ten by which the RMS of the outputs grows from the first weights
            to the largest output.
        slope, slope_low, slope_high: decades that the gradient loses from one weight layer to the
            one before it: median over the steps, and the range of nine tenths of them.
        share_lost: share of the steps on which ``decades`` alone was above 2.
        starved: weight layers, input first, whose gradient is more than 2 decades below the end.
        stretch: weight layers over which the loss happens, input first.
    """

    root: int
    steps: tuple[int, ...]
    layers: tuple[Layer, ...]
    decades: float
    weight_decades: float
    activation_decades: float
    other_decades: float
    growth: float
    forward_growth: float
    slope: float
    slope_low: float
    slope_high: float
    share_lost: float
    starved: tuple[str, ...]
    stretch: tuple[str, ...]

    @property
    def chain_decades(self) -> float:
        """Decades lost in weights and activations: without reshapes and poolings."""
        return self.weight_decades + self.activation_decades


VANISHED = 2.0
"""Decades: recall .83, false alarms .01 behind the harm gate for 1.1 decades (docs/why/signals.md,
"Behind the gate"); 2 is the rounded-up limit of the recommended order there."""


def depth_profile(
    recording: Recording, window: windows.Steps | None = None, root: int | None = None
) -> DepthProfile:
    """The gradient by depth.

    Args:
        recording: what was recorded.
        window: steps to look at; the last window by default.
        root: id of the root module whose layers are wanted; by default the trained one with most
            weight layers.
    """
    if window is None:
        window = windows.last_window(recording, "activations")
    modules = called_leaves(recording)
    if root is None:
        root = main_root(recording, modules)
    modules = modules[modules["root"] == root]
    kinds = kinds(recording, modules)
    rows = recording.activations
    rows = rows[rows["step"].isin(window) & rows["module_id"].isin(kinds)]
    at_output = norms(rows, Role.GRAD_OUTPUT, window)
    known = [m for m in modules["module"] if m in at_output]
    at_input = norms(rows, Role.GRAD_INPUT, window)
    sizes = counts(rows, Role.GRAD_OUTPUT), counts(rows, Role.GRAD_INPUT)
    norm = floor(np.array([at_output[m] for m in known]), [sizes[0][m] for m in known])
    layers = layers(recording, rows, known, kinds, norm, at_input, sizes)
    profile = DepthProfile(
        root, tuple(int(s) for s in window), layers, *([math.nan] * 9), share_lost=math.nan,
        starved=(), stretch=(),
    )  # fmt: skip
    return _with_decades(profile, norm) if len(window) and len(known) else profile


def trained_roots(recording: Recording) -> list[int]:
    """Ids of the root modules that an optimizer trains; of all roots where none is marked."""
    roots = recording.modules
    roots = roots[roots["module"] == roots["root"]]
    trained = roots[roots["trained"].fillna(False).astype(bool)]
    return [int(m) for m in (trained if len(trained) else roots)["module"]]


# ---------------------------------------------------------------------- decades


def _with_decades(profile: DepthProfile, norm: Floats) -> DepthProfile:
    layers = profile.layers
    weights = [i for i, layer in enumerate(layers) if layer.kind == "weight"]
    if not weights or not np.isfinite(norm).any():
        return profile
    log = np.log10(norm, where=norm > 0, out=np.full_like(norm, np.nan))
    # the strongest gradient at or before each layer: a branch that is zero by design (a
    # zero-initialised residual branch, a gate) starves nobody as long as the trunk beside it
    # carries the gradient
    reach = np.fmax.accumulate(log, axis=0)
    front, end = reach[weights[0]], reach[-1]
    lost = end - front
    middle = np.array([median(row) for row in reach])
    starved = [i for i in weights if middle[i] < middle[-1] - VANISHED]
    inside = [
        i for i in weights if middle[i] < middle[-1] - 0.1 * (middle[-1] - middle[weights[0]])
    ]
    first_in = max((i for i in inside if middle[i] <= middle[weights[0]] + 0.1), default=0)
    slopes = _slopes(reach[weights])
    parts = _parts(layers, weights[0])
    outputs = np.array([layer.output_rms for layer in layers])
    grown = outputs[weights[0] :]
    finite = np.isfinite(lost)
    return replace(
        profile,
        decades=median(lost),
        weight_decades=parts["weight"],
        activation_decades=parts["activation"],
        other_decades=parts["other"],
        growth=median(np.fmax.reduce(log[weights], axis=0) - log[weights[-1]]),
        forward_growth=_decades(float(np.fmax.reduce(grown)), float(grown[0])),
        slope=median(slopes),
        slope_low=quantiles(slopes, 0.05)[0],
        slope_high=quantiles(slopes, 0.05)[1],
        share_lost=float((lost[finite] > VANISHED).mean()) if finite.any() else math.nan,
        starved=tuple(layers[i].module for i in starved),
        stretch=tuple(layers[i].module for i in inside if i >= first_in),
    )  # fmt: skip


def _parts(layers: Sequence[Layer], front: int) -> dict[str, float]:
    """Decades lost behind the first weight layer, by what lost them; NaN without any gain."""
    parts = dict.fromkeys(PARTS, 0.0)
    known = False
    for index, layer in enumerate(layers):
        steps = [(layer.kind, layer.gain)] if index > front else []
        if index >= front:
            steps.append((layer.between_kind, layer.between))
        for kind, gain in steps:
            if gain > 0 and math.isfinite(gain):
                parts[kind] -= math.log10(gain)
                known = True
    return parts if known else dict.fromkeys(PARTS, math.nan)


def _slopes(reach: Floats) -> Floats:
    """Slope of a straight line through each step's column of ``[weight layers, steps]``."""
    if len(reach) < 3:
        return np.full(reach.shape[1], np.nan)
    at = np.arange(len(reach)) - (len(reach) - 1) / 2
    return np.asarray((at[:, None] * reach).sum(axis=0) / (at**2).sum())


def _decades(large: float, small: float) -> float:
    return math.log10(large / small) if large > 0 and small > 0 else math.nan


