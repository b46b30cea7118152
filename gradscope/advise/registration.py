"""Registering what sits in a plain list, dict or attribute with its module."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import replaced, wrapped
from gradscope.advise.layers import Layer
from gradscope.advise.membership import Missing
from gradscope.advise.names import spelled
from gradscope.advise.source import Source
from gradscope.advise.source_file import dotted


def as_registered(source: Source, missing: Sequence[Missing]) -> Edits:
    """Wrap the plain list, dict or tensor in what registers it with its module."""
    edits = Edits()
    done: set[tuple[str, str]] = set()
    for item in missing:
        holder = _registered_holder(source, item)
        if holder is None:
            return Edits()
        start = f"{holder.path}." if holder.path else ""
        rest = item.path.removeprefix(start).split(".")
        key = (holder.type, rest[0])
        if key in done:
            continue
        done.add(key)
        kind = _kind(item, rest, holder)
        wrap = _registration(source, holder.type, rest[0], kind) if kind is not None else None
        if wrap is None:
            return Edits()
        for file, more in wrap.by_file.values():
            edits.add(file, more)
    return edits


def _registered_holder(source: Source, item: Missing) -> Layer | None:
    inside = [
        x
        for x in source.layers.by_id.values()
        if x.root == item.root
        and x.registered
        and (not x.path or item.path.startswith(f"{x.path}."))
    ]
    return max(inside, key=lambda x: len(x.path), default=None)


def _kind(item: Missing, rest: Sequence[str], holder: Layer) -> str | None:
    """What registers the attribute; None where no container of torch.nn does."""
    tensor = item.module < 0 or item.owner == holder.path
    if tensor and len(rest) == 1:
        return "Parameter"
    if tensor and len(rest) == 2:
        return "ParameterList" if rest[1].isdigit() else "ParameterDict"
    if not tensor and len(rest) > 2:
        return "ModuleList" if rest[1].isdigit() else "ModuleDict"
    return None


def _registration(source: Source, owner: str, attribute: str, kind: str) -> Edits | None:
    for file in source.files.values():
        values = [
            node.value
            for node in file.all(ast.Assign)
            if dotted(node.targets[0]) == f"self.{attribute}"
            and (around := file.enclosing(node, ast.ClassDef)) is not None
            and around.name == owner
        ]
        if not values:
            continue
        edits = Edits()
        name, imports = spelled(file, f"torch.nn.{kind}")
        for value in values:
            empty = isinstance(value, ast.List) and not value.elts
            edit = (
                [replaced(file, value, f"{name}()")]
                if empty
                else wrapped(file, value, value, f"{name}(", ")")
            )
            edits.add(file, [*imports, *edit])
        return edits
    return None
