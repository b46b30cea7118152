"""Lines of the user's files that set initial weights now: what a new initialisation replaces."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import replaced
from gradscope.advise.layers import Layer
from gradscope.advise.names import resolved, spelled
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted

_IN_PLACE = ("normal_", "uniform_", "fill_", "mul_", "div_", "add_", "sub_", "zero_", "copy_")
_ANY = "*"
"""Stands for an index that is only known when the code runs."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """An initialisation.

    Attributes:
        function: name in torch.nn.init; "" where no single call does it.
        arguments: further arguments, e.g. ``nonlinearity="relu"``.
        of: ``weight`` or ``bias``.
        words: its name in a sentence, where it has no function.
    """

    function: str
    arguments: str = ""
    of: str = "weight"
    words: str = ""

    @property
    def shown(self) -> str:
        """Its name in a sentence."""
        return self.words or self.function.rstrip("_")

    def code(self, name: str, tensor: str) -> str:
        """The call, ``name`` being how the file writes the function."""
        return f"{name}({', '.join(part for part in (tensor, self.arguments) if part)})"


@dataclass(frozen=True, slots=True)
class Setting:
    """A call or statement that sets a tensor.

    Attributes:
        node: what to replace.
        tensor: its text, ``self.fc1.weight``.
        owner: the parts of the path before ``weight``; empty for a loop's bare parameter.
    """

    node: ast.Call | ast.stmt
    tensor: str
    owner: tuple[str, ...]


def replace_settings(source: Source, layers: Sequence[Layer], scheme: Scheme) -> Edits:
    """Put ``scheme`` in place of every line that sets these layers' tensors; empty if none does."""
    edits = Edits()
    for file in source.files.values():
        last: dict[tuple[int, str], Setting] = {}
        for setting in _settings(file, scheme.of):
            if any(_means(source, file, setting, layer) for layer in layers):
                scope = file.enclosing(setting.node, ast.FunctionDef)
                # of several lines for one tensor the last one decides
                last[(id(scope), setting.tensor)] = setting
        if last:
            name, imports = spelled(file, f"torch.nn.init.{scheme.function}")
            zeros, more = spelled(file, "torch.nn.init.zeros_")
            edits.add(file, [*imports, *more])
            for setting in last.values():
                code = scheme.code(name, setting.tensor)
                if not setting.owner:
                    # a loop over parameters also meets biases, which have no fan
                    code += f" if {setting.tensor}.dim() > 1 else {zeros}({setting.tensor})"
                edits.add(file, [replaced(file, setting.node, code)])
    return edits


def sets_all(source: Source) -> bool:
    """Whether some line sets weights that it does not name: in a loop over all parameters."""
    return any(
        not setting.owner for file in source.files.values() for setting in _settings(file, "weight")
    )


def _settings(file: SourceFile, of: str) -> list[Setting]:
    found: list[Setting] = []
    for call in file.calls:
        if not isinstance(file.parents.get(call), ast.Expr):
            continue
        if (resolved(file, call.func) or "").startswith("torch.nn.init.") and call.args:
            found += _setting(file, call, call.args[0], of)
        elif isinstance(call.func, ast.Attribute) and call.func.attr in _IN_PLACE:
            found += _setting(file, call, call.func.value, of)
    for changed in file.all(ast.AugAssign):
        found += _setting(file, changed, changed.target, of)
    for assigned in file.all(ast.Assign):
        target = assigned.targets[0]
        # only through .data: `a.weight = b.weight` ties two layers
        if isinstance(target, ast.Attribute) and target.attr == "data":
            found += _setting(file, assigned, target, of)
    return [setting for setting in found if not _trains(file, setting.node)]


def _setting(
    file: SourceFile, node: ast.Call | ast.stmt, target: ast.expr, of: str
) -> list[Setting]:
    if isinstance(target, ast.Attribute) and target.attr == "data":
        target = target.value
    path = _path(target)
    if path is None:
        return []
    if len(path) > 1 and path[-1] == of:
        return [Setting(node, file.code(target), tuple(path[:-1]))]
    loop = file.enclosing(node, ast.For)
    if loop is None or of != "weight" or len(path) > 1 or "zip(" in file.code(loop.iter):
        return []
    names = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    if path[0] in names and "parameters(" in file.code(loop.iter):
        return [Setting(node, path[0], ())]
    return []


def _path(node: ast.expr) -> list[str] | None:
    """``["model", "0", "weight"]`` for ``model[0].weight``."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _path(node.value)
        return [*inner, node.attr] if inner else None
    if isinstance(node, ast.Subscript):
        inner = _path(node.value)
        known = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int | str)
        part = str(node.slice.value) if known else _ANY  # type: ignore[attr-defined]
        return [*inner, part] if inner else None
    return None


def _trains(file: SourceFile, node: ast.Call | ast.stmt) -> bool:
    """Whether the line is part of a training loop: an update by hand, a decay, an average."""
    if any(isinstance(n, ast.Attribute) and n.attr == "grad" for n in ast.walk(node)):
        return True
    loops = (n for n in file.ancestors(node) if isinstance(n, ast.For | ast.While))
    return any(".backward(" in file.code(loop) for loop in loops)


def _means(source: Source, file: SourceFile, setting: Setting, layer: Layer) -> bool:
    """Whether ``m.weight`` or ``self.fc1.weight`` can be this layer's."""
    tests = [file.code(n.test) for n in file.ancestors(setting.node) if isinstance(n, ast.If)]
    if any("isinstance" in test and layer.torch_type not in test for test in tests):
        return False
    if len(setting.owner) > 1:
        return _ends_like(layer.path.split("."), setting.owner)
    if not setting.owner:
        return True
    variable = setting.owner[0]
    site = source.site(layer)
    scope = file.enclosing(setting.node, ast.FunctionDef)
    for assignment in file.all(ast.Assign):
        if dotted(assignment.targets[0]) == variable:
            # a variable of its own: this layer's only if it was built there
            if site is not None and site.call is assignment.value:
                return True
            if file.enclosing(assignment, ast.FunctionDef) is scope:
                return False
    # the variable of a loop or a function stands for every layer
    return variable != "self"


def _ends_like(path: list[str], owner: tuple[str, ...]) -> bool:
    """Whether ``owner`` without its first name (``self``, ``model``) is the end of ``path``."""
    written = owner[1:]
    end = path[-len(written) :]
    return len(end) == len(written) and all(
        part in (_ANY, real) for part, real in zip(written, end, strict=True)
    )
