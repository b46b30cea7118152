"""Which layers begin with weights of a wrong scale, and which initialisation fits each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gradscope.advise.functional import call_behind, seen_calls
from gradscope.advise.layers import RECURRENT, Layer
from gradscope.advise.measures import initial
from gradscope.advise.schemes import (
    FORGET,
    GATES,
    KAIMING,
    NORMAL,
    TANH,
    XAVIER,
    ZERO_BIAS,
    wanted_std,
)
from gradscope.advise.source import Source
from gradscope.advise.standing_init import Scheme
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

_ALL_OF_THEM = ("GS404",)
_KINDS_OF_START = ("small-weights", "initialization", "depth")
"""Findings about the start of the whole net: a layer that they do not name may be off as well."""
OFF_BY = 1.5
"""A weight whose spread is within this factor of the scheme's is not called wrong."""
OPEN = 0.2
"""Mean of an LSTM's biases above which its forget gates count as open: 1 in a quarter of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """Layers that one scheme is for."""

    scheme: Scheme
    layers: tuple[Layer, ...]


def work(finding: Finding, recording: Recording, source: Source) -> list[Part]:
    """What is to be drawn anew, by scheme; the layers that the finding names come first."""
    named = source.layers.weighted(finding)
    if finding.code in _ALL_OF_THEM or finding.kind in _KINDS_OF_START:
        others = [x for x in source.layers.leaves if _weight_of(recording, x) is not None]
        direct = [x for x in source.layers.named_in(finding) if x in others]
        layers = list({x.id: x for x in (*direct, *named, *others)}.values())
    else:
        direct, layers = [], named
    recurrent = [
        leaf
        for layer in source.layers.named_in(finding)
        for leaf in source.layers.below(layer)
        if leaf.torch_type in RECURRENT
    ]
    layers = list({x.id: x for x in (*layers, *recurrent)}.values())
    found: dict[Scheme, list[Layer]] = {}
    for layer in layers:
        scheme = _scheme(recording, source, layer)
        if found and layer.weighted and layer not in named:
            # one line often sets all layers: further ones follow those that the finding names
            scheme = next((s for s in found if s.function), scheme)
        off = _off_by(recording, layer, scheme)
        if layer in recurrent:
            part = _recurrent(finding, recording, layer, off)
            if part is not None:
                found.setdefault(part, []).append(layer)
        elif off is not None and (layer in named or layer in direct or _same_side(finding, off)):
            found.setdefault(scheme, []).append(layer)
    drowned = finding.code in ("GS301", "GS302", "GS303", "GS404")
    for layer in layers:
        if drowned and layer.weighted and _bias_size(recording, layer) is not None:
            found.setdefault(ZERO_BIAS, []).append(layer)
    if finding.code == "GS301" and ZERO_BIAS in found:
        # units that a bias keeps off are not helped by other weights
        found = {ZERO_BIAS: found[ZERO_BIAS]}
    return [Part(scheme, tuple(layers)) for scheme, layers in found.items()]


def _recurrent(
    finding: Finding, recording: Recording, layer: Layer, off: float | None
) -> Scheme | None:
    """What a recurrent layer that the finding names lacks; None for nothing."""
    helps = {"GS101": off is not None and off < 1, "GS102": off is not None and off > 1}
    if helps.get(finding.code, off is not None):
        return GATES
    open_gates = _gate_bias(recording, layer)
    closed = open_gates is not None and open_gates < OPEN
    return FORGET if finding.code == "GS101" and closed else None


def _gate_bias(recording: Recording, layer: Layer) -> float | None:
    """Mean of the biases of an LSTM, None for other layers."""
    if not layer.torch_type.startswith("LSTM"):
        return None
    bias = initial(recording, layer, "bias_ih_l0") or initial(recording, layer, "bias_ih")
    mean = float(bias["initial_mean"]) if bias is not None else math.nan
    return mean if math.isfinite(mean) else None


def _same_side(finding: Finding, off: float) -> bool:
    """Whether a layer that the finding does not name is off as the named ones are."""
    large = finding.code == "GS102" or finding.kind == "large"
    # exactly 0 is meant so: a head or a branch that begins as if it were not there
    return off > 2 * OFF_BY if large else 0 < off < 1 / (2 * OFF_BY)


def _scheme(recording: Recording, source: Source, layer: Layer) -> Scheme:
    if layer.torch_type in RECURRENT:
        return GATES
    if layer.torch_type.startswith("Embedding"):
        return NORMAL
    kind = None if source.layers.is_output(layer) else activation(recording, source, layer)
    if kind is None or kind is Activation.SIGMOID:
        return XAVIER
    return TANH if kind in (Activation.TANH, Activation.HARD) else KAIMING


def activation(recording: Recording, source: Source, layer: Layer) -> Activation | None:
    """Kind of the activation behind a layer, a module or a function; None where there is none."""
    behind = source.layers.activation_of(layer)
    if behind is not None:
        return behind.activation
    function = call_behind(seen_calls(recording, source), source, layer)
    if function is None:
        return None
    names = {"sigmoid": Activation.SIGMOID, "tanh": Activation.TANH, "hardtanh": Activation.HARD}
    return names.get(function.operation, Activation.RELU)


def _weight_of(recording: Recording, layer: Layer) -> dict[str, Any] | None:
    if layer.torch_type in RECURRENT:
        return initial(recording, layer, "weight_hh_l0") or initial(recording, layer, "weight_hh")
    if layer.weighted or layer.torch_type.startswith("Embedding"):
        return initial(recording, layer, "weight")
    return None


def _off_by(recording: Recording, layer: Layer, scheme: Scheme) -> float | None:
    """Measured over wanted spread of the first weights; None where it is near 1 or not known."""
    weight = _weight_of(recording, layer)
    if weight is None or not weight.get("fan_in") or not weight.get("fan_out"):
        return None
    found = float(weight["initial_std"])
    if not math.isfinite(found):
        return None
    ratio = found / wanted_std(scheme, float(weight["fan_in"]), float(weight["fan_out"]))
    return None if 1 / OFF_BY <= ratio <= OFF_BY else ratio


def measured(recording: Recording, layer: Layer, scheme: Scheme) -> str:
    """What is wrong with the start of a layer, in numbers."""
    if scheme == ZERO_BIAS:
        begun = _bias_size(recording, layer) or 0.0
        return f"the bias of {layer.shown} begins at {begun:.3g}, which keeps its units off"
    if scheme == FORGET:
        begun = _gate_bias(recording, layer) or 0.0
        return (
            f"the gates of {layer.shown} begin with biases of {begun:.2g} on average, so that its "
            "cell forgets half or more at each time step"
        )
    weight, ratio = _weight_of(recording, layer), _off_by(recording, layer, scheme)
    assert weight is not None
    assert ratio is not None
    found = float(weight["initial_std"])
    wanted = wanted_std(scheme, float(weight["fan_in"]), float(weight["fan_out"]))
    if found == 0:
        return (
            f"all weights of {layer.shown} begin equal; {scheme.shown} gives them a spread of "
            f"{wanted:.2g}"
        )
    size = f"{ratio:.2g} times" if ratio > 1 else f"1/{1 / ratio:.2g} of"
    return (
        f"the weights of {layer.shown} begin with a spread of {found:.2g}, {size} the {wanted:.2g} "
        f"of {scheme.shown}, which keeps the signal's size from layer to layer"
    )


def _bias_size(recording: Recording, layer: Layer) -> float | None:
    """Initial mean of a bias, or its spread, where it drowns what the weights add; else None."""
    bias, weight = initial(recording, layer, "bias"), initial(recording, layer, "weight")
    if bias is None or weight is None or not weight.get("fan_in"):
        return None
    # with inputs of unit size the weighted sum has this spread
    spread = float(weight["initial_std"]) * math.sqrt(float(weight["fan_in"]))
    mean, width = float(bias["initial_mean"]), float(bias["initial_std"])
    largest = mean if abs(mean) >= width else width
    # an exact 0 of both is an ordinary zero-initialised layer
    return largest if abs(largest) > max(2 * spread, 0.1) else None
