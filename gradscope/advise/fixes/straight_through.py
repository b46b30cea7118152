"""straight-through: a rounding keeps its value, and the gradient passes as if it were not there."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.cuts import Cut, cut_of
from gradscope.advise.fix import Change, Edits, Remedy, Treatment, listed
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.functions import StraightThrough as Passed
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_STEPS = ("round", "floor", "ceil", "trunc", "sign")


class StraightThrough(Remedy):
    """``torch.round(x)`` becomes ``x + (torch.round(x) - x).detach()`` (Bengio et al. 2013)."""

    name = "straight-through"
    answers: ClassVar[Mapping[str, int]] = {"GS104:integer": 1, "GS104:zero": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The line is known at which a step function or a whole number ends the gradient."""
        cut = cut_of(finding, recording, ("integer",))
        if cut is None:
            return None
        return (
            f"`{cut.operation}`{cut.place} is flat between its steps and gives "
            f"{listed(finding.modules or finding.parameters)} no gradient"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the recorded line where it applies a step function to a variable."""
        cut = cut_of(finding, recording, ("integer",))
        assert cut is not None
        edits = Edits()
        at = source.place(cut.file, cut.line)
        if at is not None:
            edits.add(at[0], _edits(at[0], cut, at[1]))
        return Change(
            title=f"pass the gradient through `{cut.operation}`{cut.place}",
            applicability="may-change-results",
            cost="the gradient is that of the identity, not of the step function: an estimate",
            edits=edits,
            snippet=f"y = x + (torch.{cut.operation}(x) - x).detach()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The value of the step function with the gradient of the identity."""
        cut = cut_of(finding, recording, ("integer",))
        assert cut is not None
        if cut.file is None or cut.line is None or cut.operation not in _STEPS:
            return Treatment(untried=f"`{cut.operation}` gives indices, which nothing replaces")
        return Treatment((Passed(cut.file, (cut.line,), cut.operation),))


def _edits(file: SourceFile, cut: Cut, line: int) -> list[Edit]:
    if cut.operation not in _STEPS:
        return []
    calls = [
        call
        for call in file.calls_at(line)
        if isinstance(call.func, ast.Attribute) and call.func.attr == cut.operation
    ]
    if len(calls) != 1:
        return []
    call = calls[0]
    assert isinstance(call.func, ast.Attribute)
    operand = call.args[0] if call.args else call.func.value
    if not isinstance(operand, ast.Name) or len(call.args) > 1 or call.keywords:
        # the operand is written three times: only a plain variable may be
        return []
    code = f"({operand.id} + ({file.code(call)} - {operand.id}).detach())"
    return [Edit(file.start(call), file.end(call), code)]
