"""log-softmax: the logarithm of a softmax or sigmoid in one operation that cannot underflow."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.names import resolved, spelled
from gradscope.advise.numerics import Operation, operations, shown_at
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted
from gradscope.advise.treatments.functions import JoinedLogarithm
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_JOINED = {"softmax": "log_softmax", "sigmoid": "logsigmoid"}


class LogSoftmax(Remedy):
    """``torch.log(torch.softmax(x, 1))`` becomes ``F.log_softmax(x, 1)``."""

    name = "log-softmax"
    answers: ClassVar[Mapping[str, int]] = {"GS201": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The logarithm reads a softmax or a sigmoid, directly or through one variable."""
        pairs = _pairs(finding, source)
        if not pairs:
            return None
        measured = (finding.origin.reason if finding.origin else "") or lead(finding)
        return (
            f"{measured}: the {pairs[0].inner} is 0 for an unlikely class and its log "
            f"-inf; {_JOINED[pairs[0].inner]} is the same number without the detour"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Exchange both calls for one."""
        edits = Edits()
        pairs = _pairs(finding, source)
        for pair in pairs:
            edits.add(pair.log.file, _edits(pair))
        name = _JOINED[pairs[0].inner]
        return Change(
            title=f"use {name} in place of {shown_at(finding)} of a {pairs[0].inner}",
            applicability="exact",
            cost="the same value wherever the old one was finite",
            edits=edits,
            snippet=f"torch.nn.functional.{name}(logits{', dim=1' if 'soft' in name else ''})",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The logarithm on the recorded line is taken from the logits."""
        pair = _pairs(finding, source)[0]
        lines = range(pair.log.node.lineno, (pair.log.node.end_lineno or 0) + 1)
        return Treatment((JoinedLogarithm(pair.log.file.name, lines),))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A logarithm and the call whose result it reads."""

    log: Operation
    inner: str
    source: ast.Call


def _pairs(finding: Finding, source: Source) -> list[_Pair]:
    found = []
    for log in operations(finding, source, ("log",)):
        call = log.operand if isinstance(log.operand, ast.Call) else _value_of(log)
        if isinstance(call, ast.Call) and (inner := _inner(log.file, call)) is not None:
            found.append(_Pair(log, inner, call))
    return found


def _inner(file: SourceFile, call: ast.Call) -> str | None:
    full = resolved(file, call.func) or ""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else full.rpartition(".")[2]
    if name not in _JOINED or (full.startswith("torch.") and not call.args):
        return None
    # an attribute of the model may bear the name and do something else
    return None if full.startswith("self.") else name


def _value_of(log: Operation) -> ast.expr | None:
    """What the operand's variable holds, if it was set once in the same block just from names."""
    if not isinstance(log.operand, ast.Name):
        return None
    file = log.file
    statement = file.statement(log.node)
    block = file.block(statement)
    before = block[: block.index(statement)]
    setting = [s for s in before if _sets(s, log.operand.id)]
    if len(setting) != 1 or not isinstance(setting[0], ast.Assign):
        return None
    value = setting[0].value
    since = before[before.index(setting[0]) + 1 :]
    read = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
    # the logits are written a second time: that must be cheap and give the same
    cheap = isinstance(value, ast.Call) and all(dotted(a) or _constant(a) for a in value.args)
    return value if cheap and not any(_sets(s, n) for s in since for n in read) else None


def _constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.UnaryOp)


def _sets(statement: ast.stmt, name: str) -> bool:
    return any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        for n in ast.walk(statement)
    )


def _edits(pair: _Pair) -> list[Edit]:
    file, log, call = pair.log.file, pair.log.node, pair.source
    name, imports = spelled(file, f"torch.nn.functional.{_JOINED[pair.inner]}")
    arguments = file.text[file.end(call.func) : file.end(call)].strip()[1:-1].strip()
    if not (resolved(file, call.func) or "").startswith("torch."):
        assert isinstance(call.func, ast.Attribute)
        stop = file.end(call.func) - len(call.func.attr)
        receiver = file.text[file.start(call) : stop].rstrip().removesuffix(".").rstrip()
        arguments = ", ".join(part for part in (receiver, arguments) if part)
    return [*imports, Edit(file.start(log), file.end(log), f"{name}({arguments})")]
