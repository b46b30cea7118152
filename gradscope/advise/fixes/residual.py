"""residual: a path on which the gradient passes a layer unchanged."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
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
from gradscope.advise.functional import call_behind, seen_calls
from gradscope.advise.insertion import at_module_level_before, removed, wrapped
from gradscope.advise.layers import Layer
from gradscope.advise.names import spelled
from gradscope.advise.patch import Edit
from gradscope.advise.placement import appended_by, container_items, in_sequential, sites_of
from gradscope.advise.shortcut import block_around, through_block
from gradscope.advise.source import Site, Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.modules import AddResidual
from gradscope.advise.treatments.places import place_of
from gradscope.diagnose.finding import Finding
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording


class Residual(Remedy):
    """``x + layer(x)`` around each named layer, or block, whose output has its input's shape."""

    name = "residual"
    answers: ClassVar[Mapping[str, int]] = {
        "GS101": 3,
        "GS101:activation-slope": 3,
        "GS101:depth": 1,
        "GS101:small-weights": 4,
        "GS101:saturated-loss": 0,
        "GS101:through-time": 0,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """At least one layer or block that keeps the shape, and no addition there yet."""
        targets = _targets(finding, source)
        if not targets:
            return None
        return (
            f"{lead(finding)}: around {listed(x.name for x in targets)} "
            f"the shapes fit, so with `x + layer(x)` the gradient reaches the layers before with "
            f"factor 1, whatever the layer's own slope and weights"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Add the input to the output: in a block's forward, in a Sequential, or around a call."""
        targets = _targets(finding, source)
        edits = _edits(recording, source, targets)
        first = targets[0].path or "layer"
        return Change(
            title=f"add a residual connection around {listed(x.name for x in targets)}",
            applicability="may-change-results",
            cost=cost_of(RETRAIN, _note(source, targets)),
            edits=edits,
            snippet=f"# where {first} is called:\nx = x + self.{first}(x)",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Hooks at both ends of each block; a layer's activation module lies inside."""
        spans = []
        for layer in _targets(finding, source):
            last = (source.layers.activation_of(layer) or layer) if layer.leaf else layer
            spans.append((place_of(source, layer), place_of(source, last)))
        return Treatment((AddResidual(spans),))


def _note(source: Source, targets: Sequence[Layer]) -> str:
    return shared_note(sites_of(source, targets) or [], [x.id for x in targets])


def _targets(finding: Finding, source: Source) -> list[Layer]:
    found: dict[int, Layer] = {}
    for layer in source.layers.weighted(finding):
        block = block_around(source, layer)
        if block is not None:
            found.setdefault(block.id, block)
        elif _keeps_shape(source, layer):
            site = source.site(layer)
            if site is None or all(_keeps_shape(source, x) for x in site.layers):
                found.setdefault(layer.id, layer)
    return list(found.values())


def _keeps_shape(source: Source, layer: Layer) -> bool:
    if layer.inputs is None or layer.inputs != layer.channels:
        return False
    before = source.layers.size_per_sample(layer, Role.INPUT)
    after = source.layers.size_per_sample(layer, Role.OUTPUT)
    if before is None or after is None:
        # a linear layer keeps the other axes; a convolution may not
        return layer.torch_type == "Linear"
    return before == after


def _edits(recording: Recording, source: Source, targets: Sequence[Layer]) -> Edits:
    edits = Edits()
    calls = seen_calls(recording, source)
    done: set[int] = set()
    names: dict[str, str] = {}
    for layer in targets:
        if not layer.leaf:
            through_block(edits, source, layer)
            continue
        site = source.site(layer)
        if site is not None and in_sequential(source, site):
            if id(site.call) in done:
                continue
            done.add(id(site.call))
            name = names.setdefault(
                site.file.name, site.file.free_name("Residual", "ResidualBranch")
            )
            wrap = _wrapped(source, site, name)
            if wrap is None:
                return Edits()
            edits.add(site.file, wrap)
            continue
        call = call_behind(calls, source, layer)
        added = _around_call(call.file, call.call) if call is not None else None
        if call is None or added is None:
            return Edits()
        edits.add(call.file, added)
    for file, inside in list(edits.by_file.values()):
        if file.name in names:
            edits.add(file, _definition(file, names[file.name], min(e.start for e in inside)))
    return edits


def _wrapped(source: Source, site: Site, name: str) -> list[Edit] | None:
    """``Residual(`` … ``)`` around the layer and, where it stands next, its activation."""
    file, call = site.file, site.call
    activation = source.layers.activation_of(site.layers[0])
    behind = source.site(activation) if activation is not None else None
    items = container_items(file, call)
    if items is not None:
        container, around, index = items
        last = index
        if behind is not None and behind.call in around[index:]:
            last = around.index(behind.call)
        # a tuple of one needs its comma
        whole = isinstance(container, ast.Tuple) and last - index + 1 == len(around)
        tail = ")," if whole and not _ends_in_comma(file, container) else ")"
        return wrapped(file, call, around[last], f"{name}(", tail)
    statement = appended_by(file, call)
    if statement is None:
        return None
    block = file.block(statement[0])
    index = block.index(statement[0])
    following = block[index + 1] if index + 1 < len(block) else None
    second = appended_by(file, behind.call) if behind is not None else None
    if second is not None and second[0] is following and second[1] == statement[1]:
        gone = removed(file, second[0])
        if gone is not None and behind is not None:
            return [*wrapped(file, call, call, f"{name}(", f", {file.code(behind.call)})"), *gone]
    return wrapped(file, call, call, f"{name}(", ")")


def _ends_in_comma(file: SourceFile, node: ast.AST) -> bool:
    return isinstance(node, ast.expr) and file.code(node).rstrip(") \t\r\n").endswith(",")


def _around_call(file: SourceFile, call: ast.Call) -> list[Edit] | None:
    """``x = f(layer(x))`` becomes ``x = x + f(layer(x))``."""
    statement = file.parents.get(call)
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
        return None
    name = statement.targets[0].id
    if not any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(call)):
        return None
    start = file.start(call)
    return [Edit(start, start, f"{name} + ")]


def _definition(file: SourceFile, name: str, place: int) -> list[Edit]:
    base, imports = spelled(file, "torch.nn.Sequential")
    top = next(s for s in file.tree.body if file.end(s) > place)
    lines = [
        f"class {name}({base}):",
        '\t"""Adds its input to the output of the layers in it."""',
        "",
        "\tdef forward(self, x):",
        "\t\treturn x + super().forward(x)",
    ]
    return [*imports, *at_module_level_before(file, top, lines)]
