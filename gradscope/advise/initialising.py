"""Where and how a file sets its initial weights: the lines to change, or the place for new ones."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import after_statement, replaced
from gradscope.advise.layers import Layer
from gradscope.advise.names import resolved, spelled
from gradscope.advise.patch import Edit
from gradscope.advise.placement import attribute_of
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted

_IN_PLACE = ("normal_", "uniform_", "fill_", "mul_", "div_", "add_", "sub_", "zero_", "copy_")


@dataclass(frozen=True, slots=True)
class Scheme:
    """An initialisation.

    Attributes:
        function: name in torch.nn.init.
        arguments: further arguments, e.g. ``nonlinearity="relu"``.
        of: ``weight`` or ``bias``.
    """

    function: str
    arguments: str = ""
    of: str = "weight"

    def code(self, name: str, tensor: str) -> str:
        """The call, ``name`` being how the file writes the function."""
        return f"{name}({', '.join(part for part in (tensor, self.arguments) if part)})"


def plan(source: Source, layers: Sequence[Layer], scheme: Scheme) -> Edits:
    """Edits that give ``layers`` this initialisation; empty where there is no safe place.

    Lines that set these tensors now are replaced: a new line before them would be undone by them.
    Else an attribute gets a line behind its construction, and layers built in a list or a loop
    get one loop behind the model's construction.
    """
    edits = _existing(source, layers, scheme)
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


# ---------------------------------------------------------------- lines that stand already


def _existing(source: Source, layers: Sequence[Layer], scheme: Scheme) -> Edits:
    edits = Edits()
    for file in source.files.values():
        last: dict[tuple[int, str], _Setting] = {}
        for setting in _settings(file, scheme.of):
            if any(_means(source, file, setting, layer) for layer in layers):
                scope = file.enclosing(setting.node, ast.FunctionDef)
                # of several lines for one tensor the last one decides
                last[(id(scope), setting.tensor)] = setting
        if last:
            name, imports = spelled(file, f"torch.nn.init.{scheme.function}")
            edits.add(file, imports)
            for setting in last.values():
                edits.add(file, [replaced(file, setting.node, _code(scheme, name, setting))])
    return edits


@dataclass(frozen=True, slots=True)
class _Setting:
    """A call or statement that sets ``tensor``; ``loose`` if that is a loop's bare parameter."""

    node: ast.Call | ast.stmt
    tensor: str
    loose: bool


def _code(scheme: Scheme, name: str, setting: _Setting) -> str:
    code = scheme.code(name, setting.tensor)
    if not setting.loose:
        return code
    # a loop over parameters also meets biases, which have no fan
    zeros = f"{name.rpartition('.')[0]}.zeros_" if "." in name else f"{setting.tensor}.data.zero_"
    argument = setting.tensor if zeros.endswith("zeros_") else ""
    return f"{code} if {setting.tensor}.dim() > 1 else {zeros}({argument})"


def _settings(file: SourceFile, of: str) -> list[_Setting]:
    found: list[_Setting] = []
    for call in file.calls:
        target: ast.AST | None = None
        if (resolved(file, call.func) or "").startswith("torch.nn.init.") and call.args:
            target = call.args[0]
        elif isinstance(call.func, ast.Attribute) and call.func.attr in _IN_PLACE:
            target = call.func.value
        if isinstance(file.parents.get(call), ast.Expr):
            found += _setting(file, call, target, of)
    for changed in file.all(ast.AugAssign):
        found += _setting(file, changed, changed.target, of)
    for assigned in file.all(ast.Assign):
        # only through .data: `a.weight = b.weight` ties two layers
        if (dotted(assigned.targets[0]) or "").endswith(".data"):
            found += _setting(file, assigned, assigned.targets[0], of)
    return found


def _setting(
    file: SourceFile, node: ast.Call | ast.stmt, target: ast.AST | None, of: str
) -> list[_Setting]:
    written = dotted(target) if target is not None else None
    if written is None:
        return []
    written = written.removesuffix(".data")
    if written.endswith(f".{of}"):
        return [_Setting(node, written, False)]
    loop = file.enclosing(node, ast.For)
    if loop is not None and of == "weight" and "parameters(" in file.code(loop.iter):
        names = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        if written in names:
            return [_Setting(node, written, True)]
    return []


def _means(source: Source, file: SourceFile, setting: _Setting, layer: Layer) -> bool:
    """Whether ``m.weight`` or ``self.fc1.weight`` can be this layer's."""
    tests = [
        file.code(n.test) for n in file.ancestors(setting.node) if isinstance(n, ast.If)
    ]
    if any("isinstance" in test and layer.torch_type not in test for test in tests):
        return False
    owner = setting.tensor.split(".")[:-1]
    if len(owner) > 1:
        return layer.path.rpartition(".")[2] == owner[-1]
    if setting.loose:
        return True
    site = source.site(layer)
    for assignment in file.all(ast.Assign):
        if dotted(assignment.targets[0]) == owner[0]:
            # a variable of its own: this layer's only if it was built there
            if site is not None and site.call is assignment.value:
                return True
            if file.enclosing(assignment, ast.FunctionDef) is file.enclosing(
                setting.node, ast.FunctionDef
            ):
                return False
    # the variable of a loop or a function stands for every layer
    return owner[0] != "self"


# ---------------------------------------------------------------- a place for new lines


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


def _add_loop(edits: Edits, place: Place, types: Sequence[str], scheme: Scheme) -> bool:
    file = place.file
    name, imports = spelled(file, f"torch.nn.init.{scheme.function}")
    kinds = []
    for torch_type in types:
        kind, more = spelled(file, f"torch.nn.{torch_type}")
        kinds.append(kind)
        imports += more
    wanted = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
    loop = file.free_name("module", "layer")
    lines = [
        f"for {loop} in {place.variable}.modules():",
        f"\tif isinstance({loop}, {wanted}):",
        f"\t\t{scheme.code(name, f'{loop}.{scheme.of}')}",
    ]
    if place.returned:
        lines.append(f"return {place.variable}")
    added = after_statement(file, place.statement, lines)
    if added is None:
        return False
    if place.returned:
        start = file.start(place.statement)
        added.append(Edit(start, start + len("return"), f"{place.variable} ="))
    edits.add(file, [*imports, *added])
    return True
