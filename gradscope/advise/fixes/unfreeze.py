"""unfreeze: parameters that were excluded from training train again."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, listed
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted
from gradscope.advise.treatments.modules import Unfreeze as Unfrozen
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class Unfreeze(Remedy):
    """``requires_grad = False`` becomes ``True`` where the file sets it."""

    name = "unfreeze"
    answers: ClassVar[Mapping[str, int]] = {"GS104": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The finding's parameters do not require grad."""
        frozen = _frozen(finding, recording)
        if not frozen:
            return None
        return f"requires_grad is False for {listed(frozen)}, so backward gives them nothing"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the only line that freezes, or the one that names this module."""
        frozen = _frozen(finding, recording)
        edits = Edits()
        lines = [(f, node) for f in source.files.values() for node in _freezing(f)]
        modules = [name.rpartition(".")[0] for name in frozen]
        named = [
            (f, node) for f, node in lines if any(_names(f, node, module) for module in modules)
        ]
        chosen = named or lines
        if len(chosen) == 1:
            file, node = chosen[0]
            edits.add(file, [Edit(file.start(node), file.end(node), "True")])
        return Change(
            title=f"let {listed(frozen)} train",
            applicability="may-change-results",
            cost="more memory and time a step; leave it frozen if that is meant",
            edits=edits,
            snippet=f'model.get_parameter("{frozen[0]}").requires_grad_(True)',
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Set ``requires_grad`` before the first step."""
        frozen = set(_frozen(finding, recording))
        rows = recording.parameters[recording.parameters["name"].isin(frozen)]
        roots = [source.layers.by_id.get(int(root)) for root in rows["root"]]
        kind = next((root.type for root in roots if root is not None), None)
        if kind is None:
            return Treatment(untried="the parameters belong to no model that was seen")
        return Treatment((Unfrozen(kind, [str(path) for path in rows["path"]]),))


def _frozen(finding: Finding, recording: Recording) -> list[str]:
    frame = recording.parameters
    rows = frame[~frame["requires_grad"].fillna(True).astype(bool)]
    if finding.parameters:
        rows = rows[rows["name"].isin(finding.parameters)]
    else:
        rows = rows[rows["module_name"].isin(finding.modules)]
    return [str(name) for name in rows["name"]]


def _freezing(file: SourceFile) -> list[ast.Constant]:
    """Each ``False`` in ``….requires_grad = False`` and ``….requires_grad_(False)``."""
    found: list[ast.Constant] = []
    for node in file.all(ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
            found += [node.value] if _is_false(node.value) else []  # type: ignore[list-item]
    for call in file.calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "requires_grad_":
            found += [a for a in call.args if _is_false(a)]  # type: ignore[misc]
    return found


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _names(file: SourceFile, node: ast.Constant, module: str) -> bool:
    """Whether the line, or the loop around it, reads the module's attribute."""
    around: list[ast.AST] = [file.statement(node)]
    around += [n.iter for n in file.ancestors(node) if isinstance(n, ast.For)]
    written = {dotted(n) or "" for part in around for n in ast.walk(part)}
    first = module.partition(".")[0]
    return bool(first) and any(name.endswith(f".{first}") for name in written)
