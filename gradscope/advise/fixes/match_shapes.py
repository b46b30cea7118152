"""match-shapes: prediction and target get one shape, so that the loss compares them in pairs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.names import resolved
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted
from gradscope.advise.treatments.functions import MatchShapes as Matched
from gradscope.diagnose.finding import Finding
from gradscope.diagnose.loss_input import fault_of
from gradscope.recording.reader import Recording

_FUNCTIONS = tuple(f"torch.nn.functional.{name}" for name in sorted(Matched.operations))
_LAYERS = tuple(f"torch.nn.{name}" for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"))
_PLAIN = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant)


class MatchShapes(Remedy):
    """Give the target the last axis that the prediction has, or take it off."""

    name = "match-shapes"
    answers: ClassVar[Mapping[str, int]] = {"GS503:broadcast": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The loss was seen to stretch both sides."""
        return (
            f"{lead(finding)}: every prediction is compared with every target of the batch, and "
            "the best answer to that is one number for all"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the target in the loss call, where there is exactly one."""
        method = _method(recording)
        edits = Edits()
        call = _call(finding, recording, source)
        if call is not None and method is not None:
            file, target = call
            code = file.code(target)
            code = code if isinstance(target, _PLAIN) else f"({code})"
            edits.add(file, [Edit(file.start(target), file.end(target), f"{code}.{method}")])
        return Change(
            title="give the target the shape of the prediction",
            applicability="exact",
            cost="the loss becomes that of each prediction against its own target",
            edits=edits,
            snippet=f"target = target.{method or 'view_as(prediction)'}  # before the loss",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Targets with as many elements as the prediction get its shape."""
        return Treatment((Matched(),))


def _method(recording: Recording) -> str | None:
    """What makes the stretched target's shape that of the prediction; None if no one axis does."""
    for look in reversed(recording.losses.to_dict("records")):
        fault = fault_of(look)
        if fault is None or fault.kind != "broadcast":
            continue
        # the target is noted as it was stretched: with axes of 1 in front
        prediction, target = list(look["input_shape"]), list(look["target_shape"] or ())
        if target[-1:] == [1] and target[:-1] == prediction:
            return "squeeze(-1)"
        return "unsqueeze(-1)" if target[:1] == [1] and [*target[1:], 1] == prediction else None
    return None


def _call(
    finding: Finding, recording: Recording, source: Source
) -> tuple[SourceFile, ast.expr] | None:
    """The target in the one call of a loss.

    On the line where a loss was seen to be called, else by the losses' names in the finding's file.
    """
    rows = recording.examined
    lines = [
        at
        for row in rows[rows["kind"] == "loss"].to_dict("records")
        if (at := source.place(row["file"], _line(row["line"]))) is not None
    ]
    seen = [(f, c) for f, line in lines for c in _loss_calls(f) if c in f.calls_at(line)]
    own = source.place(finding.location.file, finding.location.line) if finding.location else None
    named = [(file, call) for file in (own or ())[:1] for call in _loss_calls(file)]
    found = {(file.name, file.start(call)): (file, call) for file, call in seen or named}
    if len(found) != 1:
        return None
    ((file, call),) = found.values()
    target = _target_of(call)
    return None if target is None else (file, target)


def _target_of(call: ast.Call) -> ast.expr | None:
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return None
    if len(call.args) >= 2:
        return call.args[1]
    return next((k.value for k in call.keywords if k.arg == "target"), None)


def _loss_calls(file: SourceFile) -> Iterator[ast.Call]:
    made = {
        dotted(target)
        for statement in file.all(ast.Assign)
        if isinstance(statement.value, ast.Call) and resolved(file, statement.value.func) in _LAYERS
        for target in statement.targets
    }
    for call in file.calls:
        if resolved(file, call.func) in _FUNCTIONS or dotted(call.func) in made - {None}:
            yield call


def _line(value: Any) -> int | None:
    return int(value) if value == value and value is not None else None
