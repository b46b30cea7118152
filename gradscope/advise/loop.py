"""The training loop in the user's files: where optimizers are built, backward and step called."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from gradscope.advise.names import resolved
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class OptimizerCall:
    """The call that builds an optimizer, ``torch.optim.SGD(model.parameters(), lr=0.1)``."""

    file: SourceFile
    call: ast.Call

    @property
    def parameters(self) -> ast.expr | None:
        """The expression for what it optimises."""
        for keyword in self.call.keywords:
            if keyword.arg == "params":
                return keyword.value
        first = self.call.args[0] if self.call.args else None
        return None if isinstance(first, ast.Starred) else first

    @property
    def rate(self) -> ast.expr | None:
        """The expression for the learning rate, None if it is left to the default."""
        for keyword in self.call.keywords:
            if keyword.arg == "lr":
                return keyword.value
        return self.call.args[1] if len(self.call.args) > 1 else None

    @property
    def variable(self) -> str | None:
        """Name that it is assigned to."""
        parent = self.file.parents.get(self.call)
        if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name):
            return parent.targets[0].id
        return None


@dataclass(frozen=True, slots=True)
class Update:
    """One backward and the optimizer step that follows it.

    Attributes:
        file: the file.
        backward, step: the two statements.
        scaler: text of the GradScaler whose step it is, None without one.
        optimizer: text of the optimizer.
    """

    file: SourceFile
    backward: ast.stmt
    step: ast.stmt
    scaler: str | None
    optimizer: str


def optimizer_calls(recording: Recording, source: Source, ordinal: int) -> list[OptimizerCall]:
    """Calls that may have built optimizer ``ordinal``: one where it was seen or is the only one."""
    known = recording.run.get("optimizers") or []
    kind = known[ordinal]["type"] if ordinal < len(known) else None
    events = recording.events
    built = events[(events["kind"] == "optimizer-built") & (events["optimizer"] == ordinal)]
    for site in built["site"]:
        at = source.site_of_event(site)
        if at is not None:
            calls = [c for c in at[0].calls_at(at[1]) if _optimizer_type(at[0], c) == kind]
            if len(calls) == 1:
                return [OptimizerCall(at[0], calls[0])]
    return [
        OptimizerCall(file, call)
        for file in source.files.values()
        for call in file.calls
        if kind is not None and _optimizer_type(file, call) == kind
    ]


def is_by_hand(recording: Recording) -> bool:
    """Whether no optimizer was seen: the update is written by hand."""
    return not recording.run.get("optimizers")


def uses_own_loop(recording: Recording) -> bool:
    """Whether gradscope ran the loop itself, so that none of the user's lines steps."""
    return recording.run.get("command") == "check"


def updates(recording: Recording, source: Source) -> list[Update]:
    """Every backward with the step behind it: the recorded lines, else all in the files."""
    found = [
        update
        for file in source.files.values()
        for call in file.calls
        if (update := _update(file, call)) is not None
    ]
    seen = _sites(recording, source, "step")
    at_sites = [u for u in found if (u.file.name, u.step.lineno) in seen]
    return at_sites or found


def _sites(recording: Recording, source: Source, kind: str) -> set[tuple[str, int]]:
    events = recording.events
    places = (
        source.site_of_event(site) for site in events.loc[events["kind"] == kind, "site"].unique()
    )
    return {(place[0].name, place[1]) for place in places if place is not None}


def _optimizer_type(file: SourceFile, call: ast.Call) -> str | None:
    full = resolved(file, call.func) or ""
    name = full.rpartition(".")[2]
    return name if full.startswith("torch.optim.") and name[:1].isupper() else None


def _update(file: SourceFile, step: ast.Call) -> Update | None:
    """``step`` as the step of an optimizer, with the backward before it."""
    if not isinstance(step.func, ast.Attribute) or step.func.attr != "step":
        return None
    statement = file.parents.get(step)
    if not isinstance(statement, ast.Expr | ast.Assign):
        return None
    owner = file.code(step.func.value)
    before = _backward_before(file, statement)
    if before is None:
        return None
    backward, call = before
    scaled = isinstance(call.func, ast.Attribute) and ".scale(" in file.code(call.func.value)
    if scaled and len(step.args) == 1:
        return Update(file, backward, statement, owner, file.code(step.args[0]))
    # a scheduler's step follows the optimizer's in the same block: it is not the first one
    between = _statements_between(file, backward, statement)
    if step.args or any(_is_step(file, s) for s in between):
        return None
    return Update(file, backward, statement, None, owner)


def _backward_before(file: SourceFile, statement: ast.stmt) -> tuple[ast.stmt, ast.Call] | None:
    """The nearest ``….backward()`` before ``statement``, in its block or one around it."""
    inner: ast.stmt = statement
    while True:
        block = file.block(inner)
        for earlier in reversed(block[: block.index(inner)]):
            call = getattr(earlier, "value", None)
            if (
                isinstance(earlier, ast.Expr)
                and isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "backward"
            ):
                return earlier, call
        parent: Any = file.parents.get(inner)
        # not past the loop's own body: a backward there belongs to another step
        if not isinstance(parent, ast.If | ast.With):
            return None
        inner = parent


def _statements_between(file: SourceFile, first: ast.stmt, last: ast.stmt) -> list[ast.stmt]:
    block = file.block(last)
    start = block.index(first) + 1 if first in block else 0
    return block[start : block.index(last)]


def _is_step(file: SourceFile, statement: ast.stmt) -> bool:
    call = getattr(statement, "value", None)
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "step"
    )
