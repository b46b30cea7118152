"""How the gradient travels from the loss to the input: its size by depth.

The chain rule multiplies: the loss gradient at a module's input is that at its output times the
module's gain. Sizes are norms of the whole tensor, not RMS: initialisations by fan in keep the
norm of the gradient (He et al. 2015, section 2.2), and a convolution on many positions or a
pooling changes the RMS without anything being wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradscope.diagnose import windows
from gradscope.diagnose.gains import Floats, Layer, layer_sizes, median, quantiles
from gradscope.diagnose.once import once
from gradscope.recording.reader import Recording

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
    decades: float = math.nan
    weight_decades: float = math.nan
    activation_decades: float = math.nan
    other_decades: float = math.nan
    growth: float = math.nan
    forward_growth: float = math.nan
    slope: float = math.nan
    slope_low: float = math.nan
    slope_high: float = math.nan
    share_lost: float = math.nan
    starved: tuple[str, ...] = ()
    stretch: tuple[str, ...] = ()

    @property
    def chain_decades(self) -> float:
        """Decades lost in weights and activations: without reshapes and poolings."""
        return self.weight_decades + self.activation_decades


VANISHED = 2.0
"""Decades: recall .83, false alarms .01 behind the harm gate for 1.1 decades (docs/why/signals.md,
"Behind the gate"); 2 is the rounded-up limit of the recommended order there."""


@once
def depth_profile(
    recording: Recording, window: windows.Steps | None = None, root: int | None = None
) -> DepthProfile:
    """The gradient by depth.

    Args:
        recording: what was recorded.
        window: steps to look at; the last window by default.
        root: id of the root module whose layers are wanted; by default the trained one with most
            layers.
    """
    if window is None:
        window = windows.last_window(recording, "activations")
    root, layers, norm = layer_sizes(recording, window, root)
    profile = DepthProfile(root, tuple(int(step) for step in window), layers)
    return _with_decades(profile, norm) if layers else profile


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


__all__ = ["PARTS", "VANISHED", "DepthProfile", "Layer", "depth_profile"]
