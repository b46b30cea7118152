"""The operation in the user's line that made a NaN or an Inf: a log, a root, a division."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from gradscope.advise.names import resolved
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_LOW = (ast.Compare, ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr, ast.UnaryOp)
_PLAIN = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call or division whose ``operand`` must stay away from a limit of its domain."""

    file: SourceFile
    node: ast.Call | ast.BinOp
    operand: ast.expr


def operations(finding: Finding, source: Source, names: tuple[str, ...]) -> list[Operation]:
    """The finding's operation on its recorded line, every time it stands there.

    Args:
        finding: a finding with an origin.
        source: the user's code.
        names: operations that the caller can treat; none are found for another one.
    """
    origin = finding.origin
    if origin is None or origin.location is None or origin.operation not in names:
        return []
    at = source.place(origin.location.file, origin.location.line)
    if at is None:
        return []
    file, line = at
    written = [
        Operation(file, node, operand)
        for node in file.all(ast.BinOp)
        if node.lineno <= line <= (node.end_lineno or node.lineno)
        and (operand := _written(node, origin.operation)) is not None
    ]
    found = (_called(file, call, origin.operation) for call in file.calls_at(line))
    return [*written, *(operation for operation in found if operation is not None)]


def _written(node: ast.BinOp, name: str) -> ast.expr | None:
    """What an operator must not read 0 in: a denominator, or the base of a power."""
    if isinstance(node.op, ast.Div) and name in ("div", "reciprocal"):
        return None if isinstance(node.right, ast.Constant) else node.right
    if isinstance(node.op, ast.Pow) and name == "pow":
        return None if isinstance(node.left, ast.Constant) else node.left
    return None


def _called(file: SourceFile, call: ast.Call, name: str) -> Operation | None:
    full = resolved(file, call.func) or ""
    written = call.func.attr if isinstance(call.func, ast.Attribute) else full.rpartition(".")[2]
    if written.rstrip("_") != name:
        return None
    if full.startswith("torch."):
        usable = call.args and not isinstance(call.args[0], ast.Starred)
        return Operation(file, call, call.args[0]) if usable else None
    if isinstance(call.func, ast.Attribute):
        return Operation(file, call, call.func.value)
    return None


def plus(operation: Operation, term: str) -> list[Edit]:
    """``operand`` becomes ``operand + term``, with parentheses where it needs them."""
    file, node = operation.file, operation.operand
    start, end = file.start(node), file.end(node)
    low = isinstance(node, _LOW)
    alone = _stands_alone(operation)
    head, tail = ("", f" + {term}") if alone and not low else ("(", f" + {term})")
    if low:
        # the operand's own parentheses first: `not a + b` is not `(not a) + b`
        head, tail = ("(", f") + {term}") if alone else ("((", f") + {term})")
    edits = [Edit(start, start, head), Edit(end, end, tail)]
    return [edit for edit in edits if edit.new]


def clamped(operation: Operation, bounds: str) -> list[Edit]:
    """``operand`` becomes ``operand.clamp(bounds)``."""
    file, node = operation.file, operation.operand
    start, end = file.start(node), file.end(node)
    if isinstance(node, _PLAIN):
        return [Edit(end, end, f".clamp({bounds})")]
    return [Edit(start, start, "("), Edit(end, end, f").clamp({bounds})")]


def epsilon(recording: Recording) -> str:
    """A term that is small beside ordinary values and not lost in this run's number format.

    float16 keeps nothing below 6e-8 and little below 6e-5 (its smallest normal number).
    """
    formats = (str(recording.run.get("dtype")), str(recording.run.get("amp")))
    return "1e-4" if "float16" in formats else "1e-8"


def unselected(finding: Finding, source: Source) -> str:
    """A sentence for an operation in a branch of ``where``: both branches are computed, always.

    "" where its line has no ``where``.
    """
    origin = finding.origin
    if origin is None or origin.location is None:
        return ""
    at = source.place(origin.location.file, origin.location.line)
    if at is None:
        return ""
    file, line = at
    names = [
        call.func.attr if isinstance(call.func, ast.Attribute) else resolved(file, call.func) or ""
        for call in file.calls_at(line)
    ]
    if not any(name.rpartition(".")[2] == "where" for name in names):
        return ""
    return (
        "; `where` computes both branches, and in the backward pass 0 times the infinite slope of "
        "the branch that is not taken is NaN: what that branch reads has to be safe, too"
    )


def shown_at(finding: Finding) -> str:
    """The operation and its line for a title."""
    assert finding.origin is not None
    place = f" in {finding.origin.location}" if finding.origin.location else ""
    return f"`{finding.origin.operation}`{place}"


def _stands_alone(operation: Operation) -> bool:
    """Whether ``operand`` is an argument, or has parentheses of its own (which have no node)."""
    file, node = operation.file, operation.operand
    if isinstance(operation.node, ast.Call) and node in operation.node.args:
        return True
    before = file.text[: file.start(node)].rstrip()
    after = file.text[file.end(node) :].lstrip()
    return before.endswith("(") and after.startswith(")")
