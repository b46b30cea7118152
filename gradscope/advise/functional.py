"""Activations that are called as functions: which call in a forward method follows which layer."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.layers import Layer
from gradscope.advise.names import resolved
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile, dotted
from gradscope.recording.reader import Recording

OPERATIONS = (
    "relu", "relu6", "sigmoid", "tanh", "hardtanh", "hardsigmoid", "logsigmoid", "softsign",
    "gelu", "silu", "elu", "selu", "leaky_relu", "softplus",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FunctionalCall:
    """One call of an activation in the user's code.

    Attributes:
        file: the file it stands in.
        call: ``torch.sigmoid(self.fc1(x))`` or ``self.fc1(x).sigmoid()``.
        operand: what it is applied to.
        operation: its name without a trailing underscore.
        method: whether it is called as a method of the operand.
        owner: id of the module in whose forward it was seen.
    """

    file: SourceFile
    call: ast.Call
    operand: ast.expr
    operation: str
    method: bool
    owner: int


def seen_calls(recording: Recording, source: Source) -> list[FunctionalCall]:
    """Every activation call that the look at an early step saw in the user's files."""
    found: list[FunctionalCall] = []
    frame = recording.examined
    for row in frame[frame["kind"] == "activation"].astype(object).to_dict("records"):
        layer = source.layers.by_id.get(int(row["module"]))
        line = row["line"]
        at = source.place(row["file"], int(line) if isinstance(line, int) else None)
        # nn.Sigmoid calls torch.sigmoid too: that one belongs to the line that builds the module
        if at is None or layer is None or layer.activation is not None:
            continue
        name = str(row["operation"]).rstrip("_")
        for call in at[0].calls_at(at[1]):
            parsed = parse(at[0], call, name, layer.id)
            if parsed is not None:
                found.append(parsed)
    return found


def parse(file: SourceFile, call: ast.Call, operation: str, owner: int) -> FunctionalCall | None:
    """``call`` as a call of ``operation``, None if it is something else."""
    full = resolved(file, call.func) or ""
    written = call.func.attr if isinstance(call.func, ast.Attribute) else full.rpartition(".")[2]
    if written.rstrip("_") != operation or operation not in OPERATIONS:
        return None
    if full.startswith("torch."):
        keywords = {k.arg: k.value for k in call.keywords}
        operand = call.args[0] if call.args else keywords.get("input")
        if operand is None or isinstance(operand, ast.Starred):
            return None
        return FunctionalCall(file, call, operand, operation, False, owner)
    if isinstance(call.func, ast.Attribute):
        return FunctionalCall(file, call, call.func.value, operation, True, owner)
    return None


def call_behind(
    calls: Sequence[FunctionalCall], source: Source, layer: Layer
) -> FunctionalCall | None:
    """The one of ``calls`` that reads the output of ``layer``, None if that is not clear.

    It is the one whose operand calls the layer's attribute, directly or through one variable;
    failing that, the only one in the forward method around the layer.
    """
    holder = source.layers.parent(layer)
    while holder is not None:
        inside = [call for call in calls if call.owner == holder.id]
        if inside:
            fed = [c for c in inside if _attribute(layer, holder) in _fed_by(c)]
            chosen = _innermost(fed or inside)
            if chosen is None or _is_model_output(chosen, holder):
                return None
            return chosen
        holder = source.layers.parent(holder)
    return None


def _innermost(calls: Sequence[FunctionalCall]) -> FunctionalCall | None:
    """The call that all others contain, ``f`` in ``g(h(f(x)))``; None where there is none."""
    distinct = list({id(c.call): c for c in calls}.values())
    for call in distinct:
        around = set(call.file.ancestors(call.call))
        if all(other is call or other.call in around for other in distinct):
            return call
    return None


def _attribute(layer: Layer, holder: Layer) -> str:
    start = f"{holder.path}." if holder.path else ""
    return layer.path.removeprefix(start).partition(".")[0]


def _fed_by(call: FunctionalCall) -> set[str]:
    """Attributes of ``self`` whose call makes the operand."""
    file = call.file
    found = _called_in(file, call.operand)
    names = {n.id for n in ast.walk(call.operand) if isinstance(n, ast.Name)}
    block = file.block(file.statement(call.call))
    earlier = block[: block.index(file.statement(call.call))]
    for statement in reversed(earlier):
        if found:
            break
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if (
            isinstance(statement, ast.Assign)
            and isinstance(target, ast.Name)
            and target.id in names
        ):
            found |= _called_in(file, statement.value)
            names = {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
    return found


def _called_in(file: SourceFile, node: ast.AST) -> set[str]:
    found: set[str] = set()
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call):
            continue
        base = inner.func
        while isinstance(base, ast.Subscript):
            base = base.value
        written = dotted(base) or ""
        if written.startswith("self."):
            found.add(written.split(".")[1])
        elif "." not in written and written:
            found |= _looped_over(file, inner, written)
    return found


def _looped_over(file: SourceFile, node: ast.AST, name: str) -> set[str]:
    """``layers`` for ``for layer in self.layers``, also through enumerate, zip and slices."""
    for loop in file.ancestors(node):
        if isinstance(loop, ast.For):
            targets = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
            if name in targets:
                attributes = (dotted(n) or "" for n in ast.walk(loop.iter))
                return {a.split(".")[1] for a in attributes if a.startswith("self.")}
    return set()


def _is_model_output(call: FunctionalCall, holder: Layer) -> bool:
    """Whether the call makes what the model returns: a probability, not a hidden activation."""
    parent = call.file.parents.get(call.call)
    return holder.path == "" and isinstance(parent, ast.Return)
