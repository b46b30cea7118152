"""keep-graph: what cut the graph is taken out, so that gradients reach the layers behind it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import ClassVar

from gradscope.advise.cuts import cut_of
from gradscope.advise.fix import Change, Edits, Remedy, Treatment, listed
from gradscope.advise.names import resolved, spelled
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.functions import KeepGraph as Kept
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_REASONS = ("detached", "no-grad")
_METHODS = ("detach", "detach_", "item")
_COPIES = ("torch.tensor", "torch.as_tensor", "float", "int")
_READING = ("item", "tolist", "numpy", "float", "int")
_MODES = ("no_grad", "inference_mode")


class KeepGraph(Remedy):
    """Remove ``.detach()``, ``.data`` or a copy; let gradients be recorded under ``no_grad``."""

    name = "keep-graph"
    answers: ClassVar[Mapping[str, int]] = {"GS104": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The look at an early step found the line that cut the graph."""
        cut = cut_of(finding, recording, _REASONS)
        if cut is None:
            return None
        return (
            f"`{cut.operation}`{cut.place} cuts the graph between the loss and "
            f"{listed(finding.modules or finding.parameters)}: nothing behind it gets a gradient"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the recorded line."""
        cut = cut_of(finding, recording, _REASONS)
        assert cut is not None
        at = source.place(cut.file, cut.line)
        edits = Edits()
        if at is not None:
            edits.add(at[0], graph_edits(at[0], at[1], cut.operation))
        mode = cut.operation in _MODES
        verb = "record gradients under" if mode else "take out"
        return Change(
            title=f"{verb} `{cut.operation}`{cut.place}",
            applicability="may-change-results",
            cost="training takes more memory; keep it if the branch is meant not to train",
            edits=edits,
            snippet="with torch.enable_grad():\n    ..." if mode else "h = h  # without .detach()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The call on the recorded line hands its input on."""
        cut = cut_of(finding, recording, _REASONS)
        assert cut is not None
        if cut.file is None or cut.line is None:
            return Treatment(untried="the line of the cut is not known")
        if cut.operation in _READING:
            return Treatment(untried=f"what `{cut.operation}` leaves has no graph to keep")
        lines = lines_of(source, cut.file, cut.line, cut.operation)
        return Treatment((Kept(cut.file, lines, cut.operation),))


def lines_of(source: Source, file: str, line: int, operation: str) -> Iterable[int]:
    """The lines on which a cut acts: of a whole block where gradients are switched off."""
    return _block(source, file, line) if operation in _MODES else (line,)


def _block(source: Source, name: str, line: int) -> range:
    """Lines of the ``with`` or of the function whose gradients are switched off around ``line``."""
    at = source.place(name, line)
    around: list[tuple[int, int]] = []
    if at is not None:
        kinds = (ast.With, ast.FunctionDef)
        nodes = [n for kind in kinds for n in at[0].all(kind)]
        spans = [(n.lineno, n.end_lineno or n.lineno) for n in nodes]
        around = [span for span in spans if span[0] <= line <= span[1]]
    first, last = max(around, default=(line, line))
    return range(first, last + 1)


def graph_edits(file: SourceFile, line: int, operation: str) -> list[Edit]:
    """Edits of ``line`` that let the graph through ``operation``; none where that is unclear."""
    if operation in _MODES:
        return _mode_edits(file, line)
    nodes = [n for n in file.all(ast.Attribute) if n.lineno <= line <= (n.end_lineno or n.lineno)]
    if operation == "data":
        found = [n for n in nodes if n.attr == "data" and isinstance(n.ctx, ast.Load)]
        return [_cut_tail(file, found[0], found[0])] if len(found) == 1 else []
    if operation in _METHODS:
        calls = [c for c in file.calls_at(line) if _method(c) == operation]
        if len(calls) != 1:
            return []
        call = calls[0]
        assert isinstance(call.func, ast.Attribute)
        if (resolved(file, call.func) or "").startswith("torch.") and len(call.args) == 1:
            return _unwrapped(file, call)
        return [_cut_tail(file, call.func, call)]
    copies = [c for c in file.calls_at(line) if resolved(file, c.func) in _COPIES]
    copies = [c for c in copies if (resolved(file, c.func) or "").endswith(operation)]
    if len(copies) == 1 and len(copies[0].args) == 1 and isinstance(copies[0].args[0], ast.Name):
        return _unwrapped(file, copies[0])
    return []


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _cut_tail(file: SourceFile, attribute: ast.Attribute, whole: ast.expr) -> Edit:
    """Remove from the dot of ``attribute`` to the end of ``whole``."""
    stop = file.end(attribute) - len(attribute.attr)
    dot = file.text.rindex(".", file.start(attribute), stop)
    return Edit(dot, file.end(whole), "")


def _unwrapped(file: SourceFile, call: ast.Call) -> list[Edit]:
    argument = call.args[0]
    return [
        Edit(file.start(call), file.start(argument), "("),
        Edit(file.end(argument), file.end(call), ")"),
    ]


def _mode_edits(file: SourceFile, line: int) -> list[Edit]:
    """``with torch.no_grad():`` becomes ``with torch.enable_grad():`` around or on ``line``."""
    blocks = [n for n in file.all(ast.With) if n.lineno <= line <= (n.end_lineno or n.lineno)]
    for block in reversed(blocks):
        for item in block.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and _is_mode(file, call.func):
                name, imports = spelled(file, "torch.enable_grad")
                return [*imports, Edit(file.start(call), file.end(call), f"{name}()")]
    functions = [
        f for f in file.all(ast.FunctionDef) if f.lineno <= line <= (f.end_lineno or f.lineno)
    ]
    for function in reversed(functions):
        for decorator in function.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _is_mode(file, target):
                name, imports = spelled(file, "torch.enable_grad")
                return [*imports, Edit(file.start(decorator), file.end(decorator), f"{name}()")]
    return []


def _is_mode(file: SourceFile, node: ast.AST) -> bool:
    return resolved(file, node) in {f"torch.{mode}" for mode in _MODES}
