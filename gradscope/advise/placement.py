"""Putting code behind a layer: a further item, a further attribute, or a small Sequential."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradscope.advise.insertion import after_item, after_statement, wrapped
from gradscope.advise.layers import Layer
from gradscope.advise.names import last_name, spelled
from gradscope.advise.patch import Edit
from gradscope.advise.source import Site, Source
from gradscope.advise.source_file import SourceFile, dotted


def sites_of(source: Source, layers: Sequence[Layer]) -> list[Site] | None:
    """The different calls that build ``layers``; None if the call of one of them is not known."""
    found: dict[int, Site] = {}
    for layer in layers:
        site = source.site(layer)
        if site is None:
            return None
        found.setdefault(id(site.call), site)
    return list(found.values())


def behind_layer(source: Source, site: Site, code: str, suffix: str) -> list[Edit] | None:
    """Make ``code`` (a module) run on the output of what ``site`` builds.

    Args:
        source: the user's code.
        site: the call that builds the layer.
        code: expression that builds the module to add.
        suffix: what the name of a new attribute ends in, e.g. ``norm``.

    Returns:
        The edits, or None where there is no safe place.
    """
    file, call = site.file, site.call
    if in_sequential(source, site):
        item = _as_item(file, call, code, suffix)
        if item is not None:
            return item
    attribute = attribute_of(file, call)
    if attribute is not None:
        as_attribute = _as_attribute(file, call, attribute, code, suffix)
        if as_attribute is not None:
            return as_attribute
        if _is_looked_into(file, attribute):
            return None
    name, imports = spelled(file, "torch.nn.Sequential")
    return [*imports, *wrapped(file, call, call, f"{name}(", f", {code})")]


def in_sequential(source: Source, site: Site) -> bool:
    """Whether every layer that the call builds sits in a Sequential that no code indexes."""
    for layer in site.layers:
        parent = source.layers.parent(layer)
        if parent is None or parent.torch_type != "Sequential" or parent.order is None:
            return False
        holder = parent.path.rpartition(".")[2]
        if holder and any(_indexes(file, holder) for file in source.files.values()):
            return False
    return True


def container_items(file: SourceFile, node: ast.expr) -> tuple[ast.AST, list[ast.expr], int] | None:
    """The call, list or tuple that holds ``node``, its items, and the index of ``node`` in them."""
    parent = file.parents.get(node)
    if isinstance(parent, ast.Call) and last_name(file, parent) == "Sequential":
        items = list(parent.args)
    elif isinstance(parent, ast.List | ast.Tuple):
        items = list(parent.elts)
    else:
        return None
    if node not in items or _in_brackets(file, parent, node, node is items[-1]):
        return None
    return parent, items, items.index(node)


def appended_by(file: SourceFile, call: ast.Call) -> tuple[ast.Expr, str] | None:
    """The statement ``x.append(<call>)`` and ``x``, None if the call stands elsewhere."""
    parent = file.parents.get(call)
    statement = file.parents.get(parent) if parent is not None else None
    if (
        isinstance(parent, ast.Call)
        and parent.args == [call]
        and isinstance(parent.func, ast.Attribute)
        and parent.func.attr == "append"
        and isinstance(statement, ast.Expr)
    ):
        return statement, file.code(parent.func.value)
    return None


def attribute_of(file: SourceFile, call: ast.Call) -> str | None:
    """``fc1`` where the call stands in ``self.fc1 = <call>``."""
    parent = file.parents.get(call)
    if isinstance(parent, ast.Assign) and len(parent.targets) == 1:
        written = dotted(parent.targets[0]) or ""
        owner, _, name = written.rpartition(".")
        return name if owner == "self" else None
    return None


def calls_of(file: SourceFile, node: ast.AST, attribute: str) -> list[ast.Call]:
    """Calls ``self.<attribute>(…)`` in the class around ``node``."""
    owner = file.enclosing(node, ast.ClassDef)
    return [
        call
        for call in file.calls
        if dotted(call.func) == f"self.{attribute}" and file.enclosing(call, ast.ClassDef) is owner
    ]


def _as_item(file: SourceFile, call: ast.Call, code: str, suffix: str) -> list[Edit] | None:
    parent = file.parents.get(call)
    if isinstance(parent, ast.Tuple) and _is_named_pair(parent):
        outer = container_items(file, parent)
        key = parent.elts[0]
        if outer is None or not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            return None
        return after_item(file, outer[1], outer[2], f'("{key.value}_{suffix}", {code})')
    items = container_items(file, call)
    if items is not None:
        return after_item(file, items[1], items[2], code)
    appended = appended_by(file, call)
    if appended is not None:
        return after_statement(file, appended[0], [f"{appended[1]}.append({code})"])
    return None


def _as_attribute(
    file: SourceFile, call: ast.Call, attribute: str, code: str, suffix: str
) -> list[Edit] | None:
    uses = calls_of(file, call, attribute)
    if len(uses) != 1 or not _is_always_set(file, call, attribute):
        return None
    name = file.free_name(f"{attribute}_{suffix}")
    added = after_statement(file, file.statement(call), [f"self.{name} = {code}"])
    if added is None:
        return None
    return [*added, *wrapped(file, uses[0], uses[0], f"self.{name}(", ")")]


def _is_always_set(file: SourceFile, call: ast.Call, attribute: str) -> bool:
    """Whether the attribute gets this one value, whatever branch the constructor takes."""
    owner = file.enclosing(call, ast.ClassDef)
    settings = [
        node
        for node in file.all(ast.Assign)
        if dotted(node.targets[0]) == f"self.{attribute}"
        and file.enclosing(node, ast.ClassDef) is owner
    ]
    return len(settings) == 1 and isinstance(file.parents[settings[0]], ast.FunctionDef)


def _is_named_pair(node: ast.Tuple) -> bool:
    first = node.elts[0]
    return len(node.elts) == 2 and isinstance(first, ast.Constant) and isinstance(first.value, str)


def _is_looked_into(file: SourceFile, attribute: str) -> bool:
    """Whether code reads ``….fc1.weight``: then ``fc1`` must stay what it is."""
    return any(
        isinstance(node.value, ast.Attribute) and node.value.attr == attribute
        for node in file.all(ast.Attribute)
    )


def _indexes(file: SourceFile, name: str) -> bool:
    return any(
        (dotted(node.value) or "").rpartition(".")[2] == name for node in file.all(ast.Subscript)
    )


def _in_brackets(file: SourceFile, parent: ast.AST, node: ast.expr, last: bool) -> bool:
    """Whether the item stands in parentheses of its own, which have no node in the tree."""
    rest = file.text[file.end(node) :].lstrip()
    return rest.startswith(")") and not (last and not isinstance(parent, ast.List))
