"""Where and how a file sets its initial weights: the lines to change, or the place for new ones."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import after_statement
from gradscope.advise.layers import Layer
from gradscope.advise.names import spelled
from gradscope.advise.patch import Edit
from gradscope.advise.placement import attribute_of
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted
from gradscope.advise.standing_init import Scheme, replace_settings


def plan(source: Source, layers: Sequence[Layer], scheme: Scheme) -> Edits:
    """Edits that give ``layers`` this initialisation; empty where there is no safe place.

    Lines that set these tensors now are replaced: a new line before them would be undone by them.
    Else an attribute gets a line behind its construction, and layers built in a list or a loop
    get one loop behind the model's construction.
    """
    edits = replace_settings(source, layers, scheme)
    if edits:
        return edits
    loops: dict[tuple[str, int], tuple[Place, set[str]]] = {}
    done: set[int] = set()
    for layer in layers:
        site = source.site(layer)
        if site is None:
            return Edits()
        if id(site.call) in done:
            continue
        done.add(id(site.call))
        attribute = attribute_of(site.file, site.call)
        if attribute is None:
            place = home(source, layer)
            if place is None:
                return Edits()
            key = (place.file.name, id(place.statement))
            loops.setdefault(key, (place, set()))[1].add(layer.torch_type)
            continue
        name, imports = spelled(site.file, f"torch.nn.init.{scheme.function}")
        line = scheme.code(name, f"self.{attribute}.{scheme.of}")
        added = after_statement(site.file, site.file.statement(site.call), [line])
        if added is None:
            return Edits()
        edits.add(site.file, [*imports, *added])
    for place, types in loops.values():
        if not _add_loop(edits, place, sorted(types), scheme):
            return Edits()
    return edits


@dataclass(frozen=True, slots=True)
class Place:
    """After ``statement`` the module is complete and can be reached as ``variable``.

    Attributes:
        file, statement, variable: as said.
        returned: the statement returns the module and must first give it that name.
    """

    file: SourceFile
    statement: ast.stmt
    variable: str
    returned: bool = False


def home(source: Source, layer: Layer) -> Place | None:
    """The place behind the construction of the nearest module that holds ``layer``."""
    site = source.site(layer)
    assert site is not None
    inside = _end_of_init(site.file, site.call)
    if inside is not None:
        return inside
    holder: Layer | None = layer
    while holder is not None:
        built = source.site(holder)
        place = _at_statement(built.file, built.call) if built is not None else None
        if place is not None and holder is not layer:
            return place
        holder = source.layers.parent(holder)
    return None


def _end_of_init(file: SourceFile, call: ast.Call) -> Place | None:
    function = file.enclosing(call, ast.FunctionDef)
    owner = file.enclosing(call, ast.ClassDef)
    if function is None or function.name != "__init__" or owner is None:
        return None
    if not function.args.args or function.args.args[0].arg != "self":
        return None
    last = function.body[-1]
    if isinstance(last, ast.Return) or file.start(last) <= file.start(function):
        return None
    return Place(file, last, "self")


def _at_statement(file: SourceFile, call: ast.Call) -> Place | None:
    parent = file.parents.get(call)
    if isinstance(parent, ast.Assign) and len(parent.targets) == 1:
        variable = dotted(parent.targets[0])
        return Place(file, parent, variable) if variable else None
    if isinstance(parent, ast.Return):
        return Place(file, parent, file.free_name("model", "network"), returned=True)
    return None


def root_home(source: Source, layer: Layer) -> Place | None:
    """The place behind the construction of the whole model that holds ``layer``."""
    root = source.layers.by_id.get(layer.root)
    built = source.site(root) if root is not None else None
    place = _at_statement(built.file, built.call) if built is not None else None
    if place is not None or root is None:
        return place
    for one in source.layers.below(root):
        site = source.site(one)
        owner = site.file.enclosing(site.call, ast.ClassDef) if site is not None else None
        if site is not None and owner is not None and owner.name == root.type:
            return _end_of_init(site.file, site.call)
    return None


def kinds_of(file: SourceFile, types: Sequence[str]) -> tuple[str, list[Edit]]:
    """What ``isinstance`` is given for these types of torch.nn, and the edits that import them."""
    kinds: list[str] = []
    imports: list[Edit] = []
    for torch_type in types:
        kind, more = spelled(file, f"torch.nn.{torch_type}")
        kinds.append(kind)
        imports += more
    return kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})", imports


def add_behind(place: Place, lines: Sequence[str]) -> list[Edit] | None:
    """Edits that add statements at a place; None where they cannot stand there."""
    file = place.file
    if place.returned:
        lines = [*lines, f"return {place.variable}"]
    added = after_statement(file, place.statement, lines)
    if added is not None and place.returned:
        start = file.start(place.statement)
        added.append(Edit(start, start + len("return"), f"{place.variable} ="))
    return added


def _add_loop(edits: Edits, place: Place, types: Sequence[str], scheme: Scheme) -> bool:
    file = place.file
    name, imports = spelled(file, f"torch.nn.init.{scheme.function}")
    wanted, more = kinds_of(file, types)
    loop = file.free_name("module", "layer")
    added = add_behind(
        place,
        [
            f"for {loop} in {place.variable}.modules():",
            f"\tif isinstance({loop}, {wanted}):",
            f"\t\t{scheme.code(name, f'{loop}.{scheme.of}')}",
        ],
    )
    if added is None:
        return False
    edits.add(file, [*imports, *more, *added])
    return True
