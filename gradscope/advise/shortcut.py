"""Blocks with a forward of their own: whether one already adds its input, and how to make it."""

from __future__ import annotations

import ast

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import before_statement, wrapped
from gradscope.advise.layers import Layer
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.recording.facts import Role

Forward = tuple[SourceFile, ast.FunctionDef, ast.Return, str]
"""File, the method, its one return statement, and the name of its input."""


def block_around(source: Source, layer: Layer) -> Layer | None:
    """The nearest block of a user's class around ``layer`` that keeps its input's shape.

    None for the model itself, and where the block's forward cannot take a shortcut.
    """
    holder = source.layers.parent(layer)
    while holder is not None and holder.path:
        if holder.torch_type == "Module":
            fits = _keeps_shape(source, holder) and forward_of(source, holder) is not None
            return holder if fits else None
        holder = source.layers.parent(holder)
    return None


def forward_of(source: Source, block: Layer) -> Forward | None:
    """The block's forward, if it has one input, one return, and does not add the input yet."""
    found = [
        (file, node)
        for file in source.files.values()
        for node in file.all(ast.FunctionDef)
        if node.name == "forward"
        and isinstance(owner := file.parents.get(node), ast.ClassDef)
        and owner.name == block.type
    ]
    if len(found) != 1:
        return None
    file, function = found[0]
    arguments = function.args
    returns = [n for n in file.all(ast.Return) if file.enclosing(n, ast.FunctionDef) is function]
    if len(arguments.args) != 2 or arguments.vararg or arguments.kwonlyargs or len(returns) != 1:
        return None
    name = arguments.args[1].arg
    added = any(isinstance(n, ast.BinOp | ast.AugAssign) and isinstance(n.op, ast.Add)
                for n in ast.walk(function))  # fmt: skip
    if added or returns[0].value is None or isinstance(returns[0].value, ast.Tuple):
        return None
    return file, function, returns[0], name


def through_block(edits: Edits, source: Source, block: Layer) -> None:
    """Add ``x +`` to what the block returns, keeping the input aside where it is overwritten."""
    forward = forward_of(source, block)
    if forward is None:
        return
    file, function, statement, name = forward
    value = statement.value
    assert value is not None
    kept = name
    before: list[Edit] = []
    if _is_overwritten(function, name):
        kept = file.free_name("shortcut", "block_input")
        first = function.body[1 if ast.get_docstring(function) is not None else 0]
        added = before_statement(file, first, [f"{kept} = {name}"])
        if added is None:
            return
        before = added
    simple = isinstance(value, ast.Name | ast.Attribute | ast.Call | ast.BinOp)
    around = wrapped(
        file, value, value, f"{kept} + " + ("" if simple else "("), "" if simple else ")"
    )
    edits.add(file, [*before, *(edit for edit in around if edit.new)])


def _is_overwritten(function: ast.FunctionDef, name: str) -> bool:
    return any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        for n in ast.walk(function)
    )


def _keeps_shape(source: Source, block: Layer) -> bool:
    before = source.layers.size_per_sample(block, Role.INPUT)
    after = source.layers.size_per_sample(block, Role.OUTPUT)
    inside = [layer for layer in source.layers.below(block) if layer.weighted]
    if not inside or inside[0].inputs is None or inside[0].inputs != inside[-1].channels:
        return False
    if before is None or after is None:
        return all(layer.torch_type == "Linear" for layer in inside)
    return before == after
