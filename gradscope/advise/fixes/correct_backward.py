"""correct-backward: the formula, the hook or the cut that makes a gradient wrong is mended."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, listed
from gradscope.advise.fixes.keep_graph import graph_edits, lines_of
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.backwards import ScaleBackward
from gradscope.advise.treatments.functions import KeepGraph
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_CUTS = ("detach", "data", "no_grad")
_PLAIN = 1e-6
"""Relative distance from a small fraction within which a measured ratio is that fraction."""
_SNIPPET = """\
x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
torch.autograd.gradcheck({name}.apply, (x,))  # while you mend its backward
"""


class CorrectBackward(Remedy):
    """Take out what cuts the graph, or multiply what ``backward`` returns by the missing factor."""

    name = "correct-backward"
    answers: ClassVar[Mapping[str, int]] = {
        "GS601": 1,
        "GS601:straight-through": 0,
        "GS601:gradient-reversal": 0,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The comparison says what is wrong, and as a rule where."""
        detail = _detail(finding, recording)
        where = f" at {detail['file']}:{detail['line']}" if detail.get("file") else ""
        if detail.get("operation"):
            return (
                f"without `{detail['operation']}`{where} the gradient of "
                f"{listed(finding.modules)} agrees with finite differences"
            )
        if detail.get("function"):
            return (
                f"`{detail['function']}.backward`{where} gives a gradient that finite differences "
                "contradict"
            )
        return f"finite differences contradict the gradient that {listed(finding.modules)} gives"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """A diff for a cut and for a plain factor; else what to look at."""
        detail = _detail(finding, recording)
        edits = Edits()
        at = source.place(detail.get("file"), detail.get("line"))
        operation, function = detail.get("operation"), detail.get("function")
        if operation in _CUTS:
            if at is not None:
                edits.add(at[0], graph_edits(at[0], at[1], str(operation)))
            return Change(
                title=f"take out `{operation}` in {listed(finding.modules)}",
                applicability="may-change-results",
                cost="keep it if the gradient is meant to stop there: then ignore this finding",
                edits=edits,
                snippet="h = h  # without the cut",
            )
        if at is not None and finding.kind in ("factor", "sign") and detail.get("ratio"):
            edits.add(at[0], _scaled(at[0], str(function), float(detail["ratio"])))
        name = str(function) if function else "MyFunction"
        about = (
            f"`{function}.backward`" if function else f"the backward of {listed(finding.modules)}"
        )
        return Change(
            title=f"correct {about}",
            applicability="exact",
            cost="",
            edits=edits,
            snippet=_SNIPPET.format(name=name),
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Nothing is cut, or the factor is multiplied in; another formula is not ours to guess."""
        detail = _detail(finding, recording)
        operation, function = detail.get("operation"), detail.get("function")
        file, line = detail.get("file"), detail.get("line")
        if operation in _CUTS:
            if file is None or line is None:
                return Treatment(untried="the line of the cut is not known")
            lines = lines_of(source, str(file), int(line), str(operation))
            return Treatment((KeepGraph(str(file), lines, str(operation)),))
        if not function:
            return Treatment(untried="it is not known which line makes the gradient wrong")
        at = source.place(file, line)
        ratio = float(detail.get("ratio") or 0) if finding.kind in ("factor", "sign") else 0.0
        fraction = _fraction(ratio) if ratio else None
        # where there is no diff, the trial would try another change than the one that is shown
        if fraction is not None and at is not None and _scaled(at[0], str(function), ratio):
            return Treatment((ScaleBackward(str(file), str(function), float(fraction)),))
        return Treatment(
            untried=f"what `{function}.backward` should give instead is not known: only a plain "
            "factor or a sign can be corrected in memory"
        )


def _detail(finding: Finding, recording: Recording) -> dict[str, Any]:
    """What the check knows of the cause, from the module's wrong rows."""
    rows = recording.gradchecks
    names = recording.module_names
    found: dict[str, Any] = {}
    for _, row in rows[rows["verdict"] == "wrong"].iterrows():
        detail = row["detail"]
        if names.get(int(row["module"]), "") in finding.modules and isinstance(detail, dict):
            found = {**detail, **found} if row["kind"] == finding.kind else {**found, **detail}
    return found


def _scaled(file: SourceFile, function: str, ratio: float) -> list[Edit]:
    """Divide the one value that ``backward`` returns by ``ratio``, if that is a plain number."""
    fraction = _fraction(ratio)
    if fraction is None:
        return []
    classes = [node for node in file.all(ast.ClassDef) if node.name == function]
    if len(classes) != 1:
        return []
    backward = [
        node
        for node in classes[0].body
        if isinstance(node, ast.FunctionDef) and node.name == "backward"
    ]
    returns = (
        [node for node in ast.walk(backward[0]) if isinstance(node, ast.Return)] if backward else []
    )
    if len(returns) != 1 or returns[0].value is None or isinstance(returns[0].value, ast.Tuple):
        return []
    value = returns[0].value
    before, after = _around(fraction)
    plain = isinstance(value, (ast.Name, ast.Call, ast.Attribute, ast.Subscript))
    if not plain:
        before, after = f"{before}(", f"){after}"
    return [
        Edit(file.start(value), file.start(value), before),
        Edit(file.end(value), file.end(value), after),
    ]


def _fraction(ratio: float) -> Fraction | None:
    """``1 / ratio`` as a small fraction, None where it is none."""
    fraction = Fraction(1 / ratio).limit_denominator(64)
    return fraction if fraction and abs(float(fraction) * ratio - 1) <= _PLAIN else None


def _around(fraction: Fraction) -> tuple[str, str]:
    """What is written before and after an expression to multiply it by ``fraction``."""
    if fraction == -1:
        return "-", ""
    if fraction.denominator == 1:
        return f"{fraction.numerator} * ", ""
    if fraction.numerator in (1, -1):
        return "-" if fraction.numerator < 0 else "", f" / {fraction.denominator}"
    return f"{fraction.numerator} * ", f" / {fraction.denominator}"
