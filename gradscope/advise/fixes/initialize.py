"""initialize: first weights whose scale fits the layer and its activation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, cost_of, lead, listed, shared_note
from gradscope.advise.functional import call_behind, seen_calls
from gradscope.advise.initialising import plan
from gradscope.advise.layers import Layer
from gradscope.advise.measures import initial
from gradscope.advise.placement import sites_of
from gradscope.advise.source import Source
from gradscope.advise.standing_init import Scheme
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

KAIMING = Scheme("kaiming_normal_", 'nonlinearity="relu"')
XAVIER = Scheme("xavier_normal_")
TANH = Scheme("xavier_normal_", "gain=5 / 3")
"""5/3 is torch's calculate_gain("tanh")."""
ZERO_BIAS = Scheme("zeros_", of="bias")
OFF_BY = 1.5
"""A weight whose spread is within this factor of the scheme's is not called wrong."""


class Initialize(Remedy):
    """Kaiming before ReLU-like activations, Xavier before tanh, sigmoid or none; biases at 0."""

    name = "initialize"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 2,
        "GS101:activation-slope": 4,
        "GS101:small-weights": 1,
        "GS101:saturated-loss": 0,
        "GS102": 1,
        "GS102:learning-rate": 5,
        "GS102:through-time": 0,
        "GS301": 1,
        "GS301:learning-rate": 5,
        "GS301:output": 2,
        "GS302": 3,
        "GS404": 1,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Weights of another scale than the scheme gives, or biases that keep units off."""
        layers = source.layers.weighted(finding)
        if not layers:
            return None
        slope = finding.kind == "activation-slope"
        if slope and _activation(recording, source, layers[0]) is Activation.SIGMOID:
            # a slope of at most 1/4 a layer is made good by no weights: twelve sigmoid layers on
            # digits stayed at the loss of chance with Xavier's, also with a gain of 4
            return None
        scheme = _scheme(finding, recording, source, layers)
        measured = _measured(recording, layers[0], scheme)
        if measured is None:
            return None
        return f"{lead(finding)}: {measured}"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the lines that set the tensors now, or add some behind the construction."""
        layers = source.layers.weighted(finding)
        scheme = _scheme(finding, recording, source, layers)
        edits: Edits = plan(source, layers, scheme)
        sites = sites_of(source, layers) or []
        owner = layers[0].path or "model"
        what = "the biases" if scheme.of == "bias" else "the weights"
        return Change(
            title=f"initialise {what} of {listed(x.name for x in layers)} "
            f"with {scheme.function.rstrip('_')}",
            applicability="may-change-results",
            cost=cost_of("changes the start of the training only", _note(sites, layers)),
            edits=edits,
            snippet=f"# after the model is built, before the optimizer:\n"
            f"{scheme.code(f'nn.init.{scheme.function}', f'model.{owner}.{scheme.of}')}",
        )


def _note(sites: Sequence[object], layers: Sequence[Layer]) -> str:
    named = [layer.id for layer in layers]
    return shared_note(sites, named)  # type: ignore[arg-type]


def _scheme(
    finding: Finding, recording: Recording, source: Source, layers: Sequence[Layer]
) -> Scheme:
    if finding.code == "GS301" and _bias_keeps_off(recording, layers[0]) is not None:
        return ZERO_BIAS
    kind = _activation(recording, source, layers[0])
    if kind is None or kind is Activation.SIGMOID:
        return XAVIER
    return TANH if kind in (Activation.TANH, Activation.HARD) else KAIMING


def _activation(recording: Recording, source: Source, layer: Layer) -> Activation | None:
    behind = source.layers.activation_of(layer)
    if behind is not None:
        return behind.activation
    function = call_behind(seen_calls(recording, source), source, layer)
    if function is None:
        return None
    names = {"sigmoid": Activation.SIGMOID, "tanh": Activation.TANH, "hardtanh": Activation.HARD}
    return names.get(function.operation, Activation.RELU)


def wanted_std(scheme: Scheme, fan_in: float, fan_out: float) -> float:
    """Standard deviation that the scheme gives a weight (He 2015, eq. 10; Glorot 2010, eq. 16)."""
    if scheme == KAIMING:
        return math.sqrt(2 / fan_in)
    gain = 5 / 3 if scheme == TANH else 1.0
    return gain * math.sqrt(2 / (fan_in + fan_out))


def _measured(recording: Recording, layer: Layer, scheme: Scheme) -> str | None:
    if scheme.of == "bias":
        bias = _bias_keeps_off(recording, layer)
        return f"the bias of {layer.shown} begins at {bias:.3g}, which keeps its units off"
    weight = initial(recording, layer, "weight")
    if weight is None or not weight.get("fan_in") or not weight.get("fan_out"):
        return None
    wanted = wanted_std(scheme, float(weight["fan_in"]), float(weight["fan_out"]))
    found = float(weight["initial_std"])
    name = scheme.function.rstrip("_")
    if not math.isfinite(found):
        return None
    if wanted / OFF_BY <= found <= wanted * OFF_BY:
        return None
    if found == 0:
        return (
            f"all weights of {layer.shown} begin equal; {name} gives them a spread of {wanted:.2g}"
        )
    ratio = found / wanted
    size = f"{ratio:.2g} times" if ratio > 1 else f"1/{1 / ratio:.2g} of"
    return (
        f"the weights of {layer.shown} begin with a spread of {found:.2g}, {size} the {wanted:.2g} "
        f"of {name}, which keeps the signal's size from layer to layer"
    )


def _bias_keeps_off(recording: Recording, layer: Layer) -> float | None:
    """Initial mean of a bias that is well below 0 next to the spread of what it is added to."""
    bias, weight = initial(recording, layer, "bias"), initial(recording, layer, "weight")
    if bias is None or weight is None or not weight.get("fan_in"):
        return None
    # with inputs of unit size the weighted sum has this spread
    spread = float(weight["initial_std"]) * math.sqrt(float(weight["fan_in"]))
    mean = float(bias["initial_mean"])
    return mean if mean < -2 * spread else None
