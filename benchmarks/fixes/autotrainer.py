"""The order in which AutoTrainer tries its fixes, with gradscope's own changes of a live training.

``utils/repair.py`` of AutoTrainer (Zhang et al., ICSE 2021) tries the entries of a fixed list for
each problem one after the other, by retraining, until the problem is gone. Its lists are repeated
here as far as they are no changes of the data: another batch size and noise are left out.
"""

from __future__ import annotations

from gradscope.advise.layers import Layer
from gradscope.advise.normalising import is_convolution, prefers_layer_norm
from gradscope.advise.source import Source
from gradscope.advise.treatments.modules import AddNorm, ReplaceModules
from gradscope.advise.treatments.places import places_of
from gradscope.advise.treatments.steps import Clip, Rate
from gradscope.advise.treatments.weights import Initialise
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.observe.experiment.intervention import Intervention

PROBLEMS = {
    "GS101": "vanish", "GS302": "vanish", "GS303": "vanish",
    "GS102": "explode", "GS201": "explode", "GS103": "explode", "GS504": "explode",
    "GS301": "dying",
}  # fmt: skip
"""AutoTrainer's problem by gradscope's code; "unstable" for all others."""
LISTS = {
    "vanish": ("selu", "relu", "batch-norm"),
    "explode": ("selu", "relu", "clip", "tanh", "batch-norm"),
    "dying": ("selu", "batch-norm", "initialise", "leaky"),
    "unstable": ("rate/10", "rate/100", "rate*10", "initialise"),
}


def order(diagnosis: Diagnosis) -> list[tuple[str, tuple[Intervention, ...]]]:
    """The changes that it would try for the first finding, in its order."""
    code = diagnosis.findings[0].code if diagnosis.findings else ""
    source = Source(diagnosis.recording)
    return [(n, c) for n in LISTS[PROBLEMS.get(code, "unstable")] if (c := _change(n, source))]


def _change(name: str, source: Source) -> tuple[Intervention, ...]:
    layers = source.layers
    hidden = [x for x in layers.leaves if x.weighted and not layers.is_output(x)]
    activations = [x for x in layers.leaves if x.activation is not None]
    if name in _ACTIVATIONS:
        if not activations:
            return ()
        return (ReplaceModules(_ACTIVATIONS[name], places_of(source, activations)),)
    if name == "batch-norm":
        kind = "LayerNorm" if any(_over_positions(x, source) for x in hidden) else "BatchNorm"
        return (AddNorm(kind, places_of(source, hidden)),) if hidden else ()
    if name == "initialise":
        return (Initialise(places_of(source, hidden), "kaiming"),) if hidden else ()
    if name == "clip":
        return (Clip(1.0),)
    return (Rate({"rate/10": 0.1, "rate/100": 0.01, "rate*10": 10.0}[name]),)


_ACTIVATIONS = {"selu": "SELU", "relu": "ReLU", "tanh": "Tanh", "leaky": "LeakyReLU"}


def _over_positions(layer: Layer, source: Source) -> bool:
    return not is_convolution(layer) and prefers_layer_norm(layer, source)
