"""replace-activation: one that keeps its slope takes the place of one that loses it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradscope.advise.fix import (
    RETRAIN,
    Change,
    Edits,
    Remedy,
    Treatment,
    cost_of,
    lead,
    listed,
    shared_note,
)
from gradscope.advise.functional import FunctionalCall, call_behind, seen_calls
from gradscope.advise.initialising import plan
from gradscope.advise.insertion import replaced
from gradscope.advise.layers import ATTENTION, Layer
from gradscope.advise.measures import LARGEST_SLOPE, mean_slope
from gradscope.advise.names import spelled
from gradscope.advise.patch import Edit
from gradscope.advise.placement import sites_of
from gradscope.advise.source import Site, Source
from gradscope.advise.standing_init import Scheme
from gradscope.advise.treatments.functions import ReplaceCalls
from gradscope.advise.treatments.modules import ReplaceModules
from gradscope.advise.treatments.places import places_of
from gradscope.advise.treatments.weights import Initialise
from gradscope.diagnose.finding import Finding
from gradscope.observe.experiment.intervention import Intervention
from gradscope.recording.facts import Activation
from gradscope.recording.reader import Recording

_FLAT_AT_ZERO = (Activation.RELU, Activation.GELU, Activation.SILU)
_LOSES_SLOPE = (Activation.SIGMOID, Activation.TANH, Activation.HARD, Activation.SOFTPLUS)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The new activation: class of torch.nn, function, further arguments of both."""

    module: str
    function: str
    arguments: str = ""


_RELU = _Choice("ReLU", "relu")
_GELU = _Choice("GELU", "gelu")
# 0.1, not the default 0.01: a dead unit comes back ten times as fast
_LEAKY = _Choice("LeakyReLU", "leaky_relu", "0.1")
_NONE = _Choice("Identity", "")


class ReplaceActivation(Remedy):
    """Exchange each activation that the finding names, as a module or as a function."""

    name = "replace-activation"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 3,
        "GS101:activation-slope": 1,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 0,
        "GS301": 2,
        "GS301:output": 1,
        "GS302": 1,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """An activation whose slope is lost where the finding looked."""
        modules, functions = _targets(finding, recording, source)
        kinds = _kinds(modules, functions)
        choice = _choose(finding, source, kinds)
        if choice is None:
            return None
        slopes = [s for s in (mean_slope(recording, x) for x in modules) if s is not None]
        old = modules[0].type if modules else functions[0].call.operation
        if choice is _NONE:
            return (
                f"{lead(finding)}: behind the last layer {old} can only give what it lets through"
            )
        if choice is _LEAKY:
            return (
                f"{lead(finding)}: a unit of {old} that is never active "
                f"has slope 0 and cannot come back, one of LeakyReLU keeps a slope of 0.1"
            )
        most = LARGEST_SLOPE.get(kinds[0], 1.0)
        measured = f", measured mean {min(slopes):.2g}" if slopes else ""
        return (
            f"{lead(finding)}: the slope of {old} is at most {most:g}"
            f"{measured}, and each layer multiplies the gradient by it; {choice.module} passes it "
            f"on whole where it is active"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Exchange the activations; ReLU in a vanishing chain also gets its initial weights."""
        modules, functions = _targets(finding, recording, source)
        choice = _choose(finding, source, _kinds(modules, functions))
        assert choice is not None
        sites = sites_of(source, modules)
        edits = Edits()
        if sites is not None:
            for site in sites:
                edits.add(site.file, _module_edits(site, choice))
            for function in functions:
                edits.add(function.call.file, _function_edits(function.call, choice))
        extra = ""
        if finding.code == "GS101" and choice is _RELU and edits:
            # a ReLU chain of default weights still shrinks the signal to 0.4 of it a layer
            weights = plan(
                source,
                source.layers.weighted(finding),
                Scheme("kaiming_normal_", 'nonlinearity="relu"'),
            )
            for file, more in weights.by_file.values():
                edits.add(file, more)
            extra = ", with Kaiming weights" if weights else ""
        old = modules[0].type if modules else functions[0].call.operation
        behind = [layer.name for function in functions for layer in function.before]
        where = f"in {listed(x.name for x in modules)}" if modules else f"behind {listed(behind)}"
        also = sum(function.also for function in functions)
        loop = f"the same call serves {also} layers that are not named here" if also else ""
        return Change(
            title=f"replace {old} by {choice.module} {where}{extra}",
            applicability="may-change-results",
            cost=cost_of(RETRAIN, shared_note(sites or [], [x.id for x in modules]), loop),
            edits=edits,
            snippet=f"# in place of {old} {where.replace('`', '')}:\n"
            f"nn.{choice.module}({choice.arguments})",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Hooks on the modules, other functions on the lines of the calls, the same weights."""
        modules, functions = _targets(finding, recording, source)
        choice = _choose(finding, source, _kinds(modules, functions))
        assert choice is not None
        slope = float(choice.arguments or 0.01)
        changes: list[Intervention] = []
        if modules:
            changes.append(ReplaceModules(choice.module, places_of(source, modules), slope))
        for function in functions:
            call = function.call
            lines = range(call.call.lineno, (call.call.end_lineno or call.call.lineno) + 1)
            changes.append(
                ReplaceCalls(call.file.name, lines, call.operation, choice.module, slope)
            )
        if finding.code == "GS101" and choice is _RELU:
            weighted = source.layers.weighted(finding)
            changes.append(Initialise(places_of(source, weighted), "kaiming"))
        return Treatment(tuple(changes))


@dataclass(frozen=True, slots=True)
class _Functional:
    """A functional activation and the layers that the finding means before it."""

    call: FunctionalCall
    before: tuple[Layer, ...]
    also: int
    """Layers that run through the same call but are not named."""


def _targets(
    finding: Finding, recording: Recording, source: Source
) -> tuple[list[Layer], list[_Functional]]:
    if finding.kind == "output":
        named = source.layers.named_in(finding)[:1]
        return [layer for layer in named if layer.activation is not None], []
    modules = source.layers.activations(finding)
    kept = [m for m in modules if m.activation in (*_FLAT_AT_ZERO, *_LOSES_SLOPE)]
    calls = [c for c in seen_calls(recording, source) if c.operation in _KINDS]
    if not calls:
        return kept, []
    read: dict[int, tuple[FunctionalCall, list[Layer]]] = {}
    for layer in source.layers.leaves:
        if layer.weighted and source.layers.activation_of(layer) is None:
            call = call_behind(calls, source, layer)
            if call is not None:
                read.setdefault(id(call.call), (call, []))[1].append(layer)
    meant = {layer.id for layer in source.layers.weighted(finding)}
    functions = []
    for call, readers in read.values():
        before = tuple(layer for layer in readers if layer.id in meant)
        if before:
            functions.append(_Functional(call, before, len(readers) - len(before)))
    return kept, functions


_KINDS = {
    "sigmoid": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "hardtanh": Activation.HARD,
    "hardsigmoid": Activation.HARD,
    "softplus": Activation.SOFTPLUS,
    "relu": Activation.RELU,
    "relu6": Activation.RELU,
    "gelu": Activation.GELU,
    "silu": Activation.SILU,
}


def _kinds(modules: list[Layer], functions: list[_Functional]) -> list[Activation]:
    kinds = [layer.activation for layer in modules if layer.activation is not None]
    return kinds + [_KINDS[function.call.operation] for function in functions]


def _choose(finding: Finding, source: Source, kinds: list[Activation]) -> _Choice | None:
    if not kinds:
        return None
    if finding.kind == "output":
        return _NONE
    if all(kind in _LOSES_SLOPE for kind in kinds):
        return _GELU if source.layers.has_any(ATTENTION) else _RELU
    if all(kind in _FLAT_AT_ZERO for kind in kinds) and finding.code in ("GS301", "GS302"):
        return _LEAKY
    return None


def _module_edits(site: Site, choice: _Choice) -> list[Edit]:
    name, imports = spelled(site.file, f"torch.nn.{choice.module}")
    in_place = [
        site.file.code(k) for k in site.call.keywords if k.arg == "inplace" and choice is not _GELU
    ]
    arguments = ", ".join(part for part in (choice.arguments, *in_place) if part)
    return [*imports, replaced(site.file, site.call, f"{name}({arguments})")]


def _function_edits(function: FunctionalCall, choice: _Choice) -> list[Edit]:
    file, call = function.file, function.call
    if choice is _RELU and isinstance(call.func, ast.Attribute):
        # torch, torch.nn.functional and tensors all have a relu (and a relu_)
        end = file.end(call.func)
        written = call.func.attr
        return [Edit(end - len(written), end, written.replace(function.operation, "relu"))]
    name, imports = spelled(file, f"torch.nn.functional.{choice.function}")
    start, end = file.start(call), file.end(call)
    if function.method:
        assert isinstance(call.func, ast.Attribute)
        # from the dot on: an operand in parentheses has no node that includes them
        dot = file.text.rindex(".", start, file.end(call.func) - len(call.func.attr) + 1)
        further = f", {choice.arguments}" if choice.arguments else ""
        return [*imports, Edit(start, start, f"{name}("), Edit(dot, end, f"{further})")]
    edits = [*imports, replaced(file, call.func, name)]
    others: list[ast.expr | ast.keyword] = [*call.args[1:]]
    others += [keyword for keyword in call.keywords if keyword.arg != "input"]
    if others:
        first = min(file.start(other) for other in others)
        edits.append(Edit(first, end - 1, choice.arguments))
    elif choice.arguments:
        comma = "" if file.text[start : end - 1].rstrip().endswith(",") else ", "
        edits.append(Edit(end - 1, end - 1, f"{comma}{choice.arguments}"))
    return edits
