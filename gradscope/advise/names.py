"""What a name in the user's file stands for, and how the file would write a name of torch."""

from __future__ import annotations

import ast

from gradscope.advise.patch import Edit
from gradscope.advise.source_file import SourceFile, dotted

_SHORT = {"torch.nn.functional": "F", "torch.nn": "nn", "torch": "torch"}


def resolved(file: SourceFile, node: ast.AST) -> str | None:
    """``a.b.c`` with the imported name at its head replaced by what it stands for."""
    written = dotted(node)
    if written is None:
        return None
    known = file.bindings
    seen: set[str] = set()
    head, _, rest = written.partition(".")
    while head in known and head not in seen:
        seen.add(head)
        written = ".".join(part for part in (known[head], rest) if part)
        head, _, rest = written.partition(".")
    return written


def last_name(file: SourceFile, call: ast.Call) -> str | None:
    """Last part of what is called: ``Linear`` for ``nn.Linear(…)`` and ``L(…)`` alike."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    full = resolved(file, call.func)
    return full.rpartition(".")[2] if full else None


def spelled(file: SourceFile, origin: str) -> tuple[str, list[Edit]]:
    """How this file writes ``torch.nn.BatchNorm1d`` and the like.

    Args:
        file: the file.
        origin: full dotted name, in torch.

    Returns:
        The name to write, and the edits that import it (empty if the file needs none).
    """
    known = {name: full for name, full in file.bindings.items() if _at_module_level(file, name)}
    for name, full in known.items():
        if full == origin:
            return name, []
    package = origin.rpartition(".")[0]
    while package:
        tail = origin.removeprefix(f"{package}.")
        for name, full in known.items():
            if full == package:
                return f"{name}.{tail}", []
        package = package.rpartition(".")[0]
    package = origin.rpartition(".")[0]
    while package not in _SHORT:
        package = package.rpartition(".")[0]
    short = _SHORT[package]
    if short in file.names:
        # the short name is taken by something else in this file: write it out in full
        short, line = "torch", "import torch"
    else:
        line = {"F": "import torch.nn.functional as F", "nn": "from torch import nn"}.get(
            short, "import torch"
        )
    tail = origin.removeprefix("torch." if short == "torch" else f"{package}.")
    return f"{short}.{tail}", [_import(file, line)]


def _at_module_level(file: SourceFile, name: str) -> bool:
    for statement in file.tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                if name == (alias.asname or alias.name.partition(".")[0]):
                    return True
    return False


def _import(file: SourceFile, line: str) -> Edit:
    """An edit that adds an import behind the first run of imports of the file."""
    body = file.tree.body
    start = 1 if ast.get_docstring(file.tree, clean=False) is not None else 0
    stop = start
    while stop < len(body) and isinstance(body[stop], ast.Import | ast.ImportFrom):
        stop += 1
    if stop > start:
        place = file.line_stop(file.end(body[stop - 1]))
        return Edit(place, place, f"{file.newline}{line}")
    place = file.line_start(file.start(body[start])) if start < len(body) else len(file.text)
    return Edit(place, place, f"{line}{file.newline}{file.newline}")
