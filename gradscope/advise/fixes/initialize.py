"""initialize: first weights whose scale fits the layer and its activation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gradscope.advise.fix import (
    Change,
    Edits,
    Remedy,
    Treatment,
    cost_of,
    lead,
    listed,
    shared_note,
)
from gradscope.advise.functional import call_behind, seen_calls
from gradscope.advise.initialising import plan
from gradscope.advise.layers import RECURRENT, Layer
from gradscope.advise.measures import initial
from gradscope.advise.placement import sites_of
from gradscope.advise.source import Source
from gradscope.advise.standing_init import Scheme
from gradscope.advise.treatments.places import places_of
from gradscope.advise.treatments.weights import Initialise
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

KAIMING = Scheme("kaiming_normal_", 'nonlinearity="relu"')
XAVIER = Scheme("xavier_normal_")
TANH = Scheme("xavier_normal_", "gain=5 / 3")
"""5/3 is torch's calculate_gain("tanh")."""
NORMAL = Scheme("normal_")
"""What torch draws for an embedding."""
ORTHOGONAL = Scheme("", "orthogonal")
"""Each gate's recurrent matrix keeps the norm of the state; no single call sets it."""
ZERO_BIAS = Scheme("zeros_", of="bias")
_LIVE = {
    KAIMING: "kaiming", XAVIER: "xavier", TANH: "tanh", NORMAL: "embedding",
    ORTHOGONAL: "recurrent", ZERO_BIAS: "zeros",
}  # fmt: skip
_WHAT = {"weight": "the weights", "bias": "the biases"}
_ALL_OF_THEM = ("GS404",)
_KINDS_OF_START = ("small-weights", "initialization", "depth")
"""Findings about the start of the whole net: a layer that they do not name may be off as well."""
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
        "GS303:initialization": 2,
        "GS404": 1,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Weights of another scale than the scheme gives, or biases that keep units off."""
        work = _work(finding, recording, source)
        if not work:
            return None
        layer, scheme = work[0].layers[0], work[0].scheme
        slope = finding.kind == "activation-slope"
        if slope and _activation(recording, source, layer) is Activation.SIGMOID:
            # a slope of at most 1/4 a layer is made good by no weights: twelve sigmoid layers on
            # digits stayed at the loss of chance with Xavier's, also with a gain of 4
            return None
        return f"{lead(finding)}: {_measured(recording, layer, scheme)}"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the lines that set the tensors now, or add some behind the construction."""
        work = _work(finding, recording, source)
        edits = Edits()
        for part in work:
            planned = plan(source, part.layers, part.scheme) if part.scheme.function else Edits()
            if not planned:
                # half of the change would be another one
                edits = Edits()
                break
            for file, some in planned.by_file.values():
                edits.add(file, some)
        layers = [layer for part in work for layer in part.layers]
        sites = sites_of(source, layers) or []
        scheme, owner = work[0].scheme, work[0].layers[0].path or "model"
        parts = [
            f"{_WHAT[part.scheme.of]} of {listed(x.name for x in part.layers)} "
            f"with {part.scheme.shown}"
            for part in work
        ]
        return Change(
            title=f"initialise {'; '.join(parts)}",
            applicability="may-change-results",
            cost=cost_of("changes the start of the training only", _note(sites, layers)),
            edits=edits,
            snippet="# after the model is built, before the optimizer:\n"
            + (
                scheme.code(f"nn.init.{scheme.function}", f"model.{owner}.{scheme.of}")
                if scheme.function
                else f"for name, p in model.{owner}.named_parameters():\n"
                '    if name.startswith("weight_hh"):\n        nn.init.orthogonal_(p)'
            ),
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """New values before the first step."""
        return Treatment(
            tuple(
                Initialise(places_of(source, part.layers), _LIVE[part.scheme], part.scheme.of)
                for part in _work(finding, recording, source)
            )
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Layers that one scheme is for."""

    scheme: Scheme
    layers: tuple[Layer, ...]


def _note(sites: Sequence[object], layers: Sequence[Layer]) -> str:
    named = [layer.id for layer in layers]
    return shared_note(sites, named)  # type: ignore[arg-type]


def _work(finding: Finding, recording: Recording, source: Source) -> list[_Part]:
    """What is to be drawn anew, by scheme; the layers that the finding names come first."""
    named = source.layers.weighted(finding)
    if finding.code in _ALL_OF_THEM or finding.kind in _KINDS_OF_START:
        others = [x for x in source.layers.leaves if _weight_of(recording, x) is not None]
        direct = [x for x in source.layers.named_in(finding) if x in others]
        layers = list({x.id: x for x in (*direct, *named, *others)}.values())
    else:
        direct, layers = [], named
    found: dict[Scheme, list[Layer]] = {}
    for layer in layers:
        scheme = _scheme(recording, source, layer)
        if found and layer.weighted and layer not in named:
            # one line often sets all layers: further ones follow those that the finding names
            scheme = next(iter(found))
        off = _off_by(recording, layer, scheme)
        if off is not None and (layer in named or layer in direct or _same_side(finding, off)):
            found.setdefault(scheme, []).append(layer)
    drowned = finding.code in ("GS301", "GS302", "GS303", "GS404")
    for layer in layers:
        if drowned and layer.weighted and _bias_size(recording, layer) is not None:
            found.setdefault(ZERO_BIAS, []).append(layer)
    if finding.code == "GS301" and ZERO_BIAS in found:
        # units that a bias keeps off are not helped by other weights
        found = {ZERO_BIAS: found[ZERO_BIAS]}
    return [_Part(scheme, tuple(layers)) for scheme, layers in found.items()]


def _same_side(finding: Finding, off: float) -> bool:
    """Whether a layer that the finding does not name is off as the named ones are."""
    large = finding.code == "GS102" or finding.kind == "large"
    # exactly 0 is meant so: a head or a branch that begins as if it were not there
    return off > 2 * OFF_BY if large else 0 < off < 1 / (2 * OFF_BY)


def _scheme(recording: Recording, source: Source, layer: Layer) -> Scheme:
    if layer.torch_type in RECURRENT:
        return ORTHOGONAL
    if layer.torch_type.startswith("Embedding"):
        return NORMAL
    kind = None if source.layers.is_output(layer) else _activation(recording, source, layer)
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
    if scheme == NORMAL:
        return 1.0
    if scheme == ORTHOGONAL:
        # rows of norm 1 in a square matrix
        return math.sqrt(1 / fan_in)
    gain = 5 / 3 if scheme == TANH else 1.0
    return gain * math.sqrt(2 / (fan_in + fan_out))


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


def _measured(recording: Recording, layer: Layer, scheme: Scheme) -> str:
    if scheme.of == "bias":
        begun = _bias_size(recording, layer) or 0.0
        return f"the bias of {layer.shown} begins at {begun:.3g}, which keeps its units off"
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
