"""Ways to get registered parameters into an optimizer, as edits of the user's files."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import after_item, after_statement, removed, replaced
from gradscope.advise.loop import OptimizerCall, optimizer_calls
from gradscope.advise.membership import Missing, covered, expression, root_labels
from gradscope.advise.source import Source
from gradscope.advise.source_file import dotted
from gradscope.recording.reader import Recording


def as_wider_expression(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """``head.parameters()`` becomes ``model.parameters()`` or a sum over several models."""
    call = _only_call(recording, source)
    expression = _owner_expression(call.parameters) if call is not None else None
    if call is None or expression is None or call.parameters is None:
        return Edits()
    labels = root_labels(recording)
    head, _, part = expression.partition(".")
    wanted = [labels.get(root, "") for root in dict.fromkeys(m.root for m in missing)]
    others = [label for label in wanted if label != head]
    edits = Edits()
    if head in labels.values() and others:
        if all(label and label in call.file.names for label in others):
            parts = " + ".join(f"list({name}.parameters())" for name in (expression, *others))
            edits.add(call.file, [replaced(call.file, call.parameters, parts)])
    elif _is_part(source, part, {m.root for m in missing}):
        edits.add(call.file, [replaced(call.file, call.parameters, f"{head}.parameters()")])
    return edits


def _is_part(source: Source, path: str, roots: set[int]) -> bool:
    """Whether ``path`` is a module of the one root that lacks something: its owner is the root."""
    paths = {layer.path for layer in source.layers.by_id.values() if {layer.root} == roots}
    return bool(path) and path in paths


def as_later_optimizer(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """Move the optimizer's construction behind the line that put new layers into the model."""
    edits = Edits()
    call = _only_call(recording, source)
    if call is None or call.variable is None:
        return edits
    file, statement = call.file, call.file.statement(call.call)
    block = file.block(statement)
    sites = [source.site(source.layers.by_id[m.module]) for m in missing if m.module >= 0]
    if len(sites) != len(missing):
        return edits
    later = []
    for site in sites:
        if site is None or site.file is not file:
            return edits
        at = next((s for s in block if s in (site.file.statement(site.call),)), None)
        if at is None or block.index(at) < block.index(statement):
            return edits
        later.append(block.index(at))
    between = block[block.index(statement) + 1 : max(later) + 1]
    used = {n.id for s in between for n in ast.walk(s) if isinstance(n, ast.Name)}
    moved = after_statement(file, block[max(later)], [file.code(statement)])
    gone = removed(file, statement)
    if call.variable not in used and moved is not None and gone is not None:
        edits.add(file, [*gone, *moved])
    return edits


def as_list_item(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """Add an item to a list of tensors or of groups."""
    edits = Edits()
    call = _only_call(recording, source)
    shown = call.parameters if call is not None else None
    if call is None or not isinstance(shown, ast.List) or not shown.elts:
        return edits
    names = _names(recording, call, missing)
    if names is None:
        return edits
    if isinstance(shown.elts[-1], ast.Dict):
        items = [_as_group(name, whole) for name, whole in names]
    else:
        items = [f"*{name}.parameters()" if whole else name for name, whole in names]
    last = len(shown.elts) - 1
    edits.add(call.file, after_item(call.file, shown.elts, last, ", ".join(items)))
    return edits


def as_param_group(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """Add a group behind the optimizer's construction."""
    edits = Edits()
    call = _only_call(recording, source)
    names = _names(recording, call, missing) if call is not None else None
    if call is None or call.variable is None or names is None:
        return edits
    lines = [f"{call.variable}.add_param_group({_as_group(*name)})" for name in names]
    added = after_statement(call.file, call.file.statement(call.call), lines)
    if added is not None:
        edits.add(call.file, added)
    return edits


def _as_group(name: str, whole: bool) -> str:
    return f'{{"params": {name}.parameters()}}' if whole else f'{{"params": [{name}]}}'


def _names(
    recording: Recording, call: OptimizerCall, missing: Sequence[Missing]
) -> list[tuple[str, bool]] | None:
    """What is missing as the call's file names it, and whether that is a whole module."""
    labels = root_labels(recording)
    head = _only_head(call)
    classes = {node.name for node in call.file.all(ast.ClassDef)}
    names = []
    for root, path, whole in covered(recording, missing):
        # what the call itself reads is in reach for certain; the variable of another root has to be
        # a name in this file
        variable = head
        if head is None or head in labels.values():
            label = labels.get(root)
            variable = label if label in call.file.names and label not in classes else None
        if variable is None:
            return None
        names.append((expression(variable, path), whole))
    return names


def _only_head(call: OptimizerCall) -> str | None:
    """``model`` where everything that the call reads parameters of begins with it."""
    owners = [
        dotted(node.func.value) or ""
        for node in ast.walk(call.call)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("parameters", "named_parameters")
    ]
    heads = {owner.partition(".")[0] for owner in owners}
    return heads.pop() if len(heads) == 1 and "" not in heads else None


def _only_call(recording: Recording, source: Source) -> OptimizerCall | None:
    if len(recording.run.get("optimizers") or []) != 1:
        return None
    calls = optimizer_calls(recording, source, 0)
    return calls[0] if len(calls) == 1 else None


def _owner_expression(node: ast.expr | None) -> str | None:
    """``model.head`` for ``model.head.parameters()``."""
    if isinstance(node, ast.Call) and not node.args and isinstance(node.func, ast.Attribute):
        return dotted(node.func.value) if node.func.attr == "parameters" else None
    return None
