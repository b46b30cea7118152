"""initialize: first weights whose scale fits the layer and its activation, or the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from gradscope.advise import lsuv_code, recurrent_init
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
from gradscope.advise.initial_work import Part, activation, measured, work
from gradscope.advise.initialising import plan
from gradscope.advise.layers import Layer
from gradscope.advise.placement import sites_of
from gradscope.advise.schemes import AS_ORTHOGONAL, FORGET, GATES, IDENTITY, LIVE, SHRINKING
from gradscope.advise.source import Source
from gradscope.advise.treatments.lsuv import FromFirstBatch
from gradscope.advise.treatments.places import places_of
from gradscope.advise.treatments.weights import Initialise
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

Option = Literal["fitting", "orthogonal", "lsuv", "identity", "forget-gate"]
_WHAT = {"weight": "the weights", "bias": "the biases"}


class Initialize(Remedy):
    """Kaiming before ReLU-like activations, Xavier before tanh, sigmoid or none; biases at 0.

    Args:
        option: ``fitting`` for that; ``orthogonal`` for orthogonal matrices of the same gains;
            ``lsuv`` for a scale that the first batch decides; ``identity`` for plain recurrent
            layers that hand on their state; ``forget-gate`` for LSTMs that keep their cell.
    """

    name = "initialize"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 2,
        "GS101:activation-slope": 4,
        "GS101:small-weights": 1,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 1,
        "GS102": 1,
        "GS102:learning-rate": 5,
        "GS102:through-time": 4,
        "GS301": 1,
        "GS301:learning-rate": 5,
        "GS301:output": 2,
        "GS302": 3,
        "GS303:initialization": 2,
        "GS404": 1,
    }

    def __init__(self, option: Option = "fitting") -> None:
        self.option = option

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Weights of another scale than the scheme gives, or biases that keep units off."""
        parts = work(finding, recording, source)
        if not parts:
            return None
        layer, scheme = parts[0].layers[0], parts[0].scheme
        slope = finding.kind == "activation-slope"
        if slope and activation(recording, source, layer) is Activation.SIGMOID:
            # a slope of at most 1/4 a layer is made good by no weights: twelve sigmoid layers on
            # digits stayed at the loss of chance with Xavier's, also with a gain of 4
            return None
        return f"{lead(finding)}: {measured(recording, layer, scheme)}"

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """The other initialisations that fit these layers."""
        parts = work(finding, recording, source)
        found: list[Remedy] = [self]
        weights = [part for part in parts if part.scheme in AS_ORTHOGONAL]
        if weights:
            found.append(Initialize("orthogonal"))
            if lsuv_code.layers_for(weights[0].layers[0], recording, source):
                found.append(Initialize("lsuv"))
        matrices = [layer for part in parts if part.scheme == GATES for layer in part.layers]
        kinds = {layer.torch_type.removesuffix("Cell") for layer in matrices}
        if kinds == {"RNN"}:
            found.append(Initialize("identity"))
        if kinds == {"LSTM"}:
            found.append(Initialize("forget-gate"))
        return tuple(found)

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the lines that set the tensors now, or add some behind the construction."""
        parts = self._parts(finding, recording, source)
        if self.option == "lsuv":
            return _lsuv(lsuv_code.layers_for(parts[0].layers[0], recording, source), source)
        edits = Edits()
        for part in parts:
            planner = plan if part.scheme.function else recurrent_init.plan
            planned = planner(source, part.layers, part.scheme)
            if not planned:
                # half of the change would be another one
                edits = Edits()
                break
            for file, some in planned.by_file.values():
                edits.add(file, some)
        layers = [layer for part in parts for layer in part.layers]
        sites = sites_of(source, layers) or []
        said = [
            f"{_WHAT[part.scheme.of]} of {listed(x.name for x in part.layers)} "
            f"with {part.scheme.shown}"
            for part in parts
        ]
        return Change(
            title=f"initialise {'; '.join(said)}",
            applicability="may-change-results",
            cost=cost_of("changes the start of the training only", _note(sites, layers)),
            edits=edits,
            snippet=f"# after the model is built, before the optimizer:\n{_snippet(parts[0])}",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """New values before the first step, or on the first batch."""
        parts = self._parts(finding, recording, source)
        if self.option == "lsuv":
            layers = lsuv_code.layers_for(parts[0].layers[0], recording, source)
            return Treatment((FromFirstBatch(places_of(source, layers)),))
        return Treatment(
            tuple(
                Initialise(places_of(source, part.layers), LIVE[part.scheme], part.scheme.of)
                for part in parts
            )
        )

    def _parts(self, finding: Finding, recording: Recording, source: Source) -> list[Part]:
        """What is to be set, by the schemes of this option."""
        parts = work(finding, recording, source)
        recurrent = {
            "identity": SHRINKING if finding.code == "GS102" else IDENTITY,
            "forget-gate": FORGET,
        }.get(self.option)
        if recurrent is not None:
            return [Part(recurrent if p.scheme == GATES else p.scheme, p.layers) for p in parts]
        if self.option == "orthogonal":
            return [Part(AS_ORTHOGONAL.get(p.scheme, p.scheme), p.layers) for p in parts]
        if self.option == "lsuv":
            return [part for part in parts if part.scheme in AS_ORTHOGONAL]
        return parts


def _lsuv(layers: Sequence[Layer], source: Source) -> Change:
    return Change(
        title=f"initialise all {len(layers)} weighted layers from the first batch, so that the "
        "output of each has variance 1 (LSUV)",
        applicability="may-change-results",
        cost="changes the start of the training only, also that of layers which begin at 0 on "
        "purpose; a copy of the model that is made before the first batch keeps the old weights",
        edits=lsuv_code.plan(source, layers),
        snippet=lsuv_code.snippet(layers),
    )


def _snippet(part: Part) -> str:
    layer, scheme = part.layers[0], part.scheme
    if scheme.function:
        owner = layer.path or "model"
        return scheme.code(f"nn.init.{scheme.function}", f"model.{owner}.{scheme.of}")
    owner = f'model.get_submodule("{layer.path}")' if layer.path else "model"
    lines, _ = recurrent_init.code(None, owner, layer.torch_type, scheme)
    return "\n".join(line.replace("\t", "    ") for line in lines)


def _note(sites: Sequence[object], layers: Sequence[Layer]) -> str:
    named = [layer.id for layer in layers]
    return shared_note(sites, named)  # type: ignore[arg-type]
