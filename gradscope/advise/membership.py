"""Ways to get parameters into an optimizer, as edits of the user's files."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.fix import Edits
from gradscope.advise.insertion import after_statement, removed, replaced, wrapped
from gradscope.advise.layers import Layer
from gradscope.advise.loop import OptimizerCall, optimizer_calls
from gradscope.advise.names import spelled
from gradscope.advise.source import Source
from gradscope.advise.source_file import dotted
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Missing:
    """A trainable parameter that no optimizer holds.

    Attributes:
        path: its name below its root.
        owner: name of the module that owns it, "" for the root or none.
        root: id of its root.
        registered: whether the root's ``parameters()`` finds it.
        count: its elements.
        module: id of the module that owns it, -1 for none.
    """

    path: str
    owner: str
    root: int
    registered: bool
    count: int
    module: int


def missing_parameters(finding: Finding, recording: Recording, source: Source) -> list[Missing]:
    """Those of the finding; where it names only modules, all missing ones inside them."""
    frame = recording.parameters.astype(object)
    inside = {layer.id for layer in source.layers.named_in(finding)}
    found = []
    for row in frame.to_dict("records"):
        if row["optimizer"] != -1 or row["requires_grad"] is False:
            continue
        named = row["name"] in finding.parameters
        if named or (not finding.parameters and int(row["module"]) in inside):
            owner = source.layers.by_id.get(int(row["module"]))
            found.append(
                Missing(
                    path=str(row["path"]),
                    owner=owner.path if owner is not None else "",
                    root=int(row["root"]),
                    registered=row["registered"] is not False,
                    count=int(row["count"]),
                    module=int(row["module"]),
                )
            )
    return found


def as_registered(source: Source, missing: Sequence[Missing]) -> Edits:
    """Wrap the plain list, dict or tensor in what registers it with its module."""
    edits = Edits()
    done: set[tuple[str, str]] = set()
    for item in missing:
        holder = _registered_holder(source, item)
        if holder is None:
            return Edits()
        start = f"{holder.path}." if holder.path else ""
        rest = item.path.removeprefix(start).split(".")
        key = (holder.type, rest[0])
        if key in done:
            continue
        done.add(key)
        kind = _kind(item, rest, holder)
        wrap = _registration(source, holder.type, rest[0], kind) if kind is not None else None
        if wrap is None:
            return Edits()
        for file, more in wrap.by_file.values():
            edits.add(file, more)
    return edits


def _registered_holder(source: Source, item: Missing) -> Layer | None:
    inside = [
        x
        for x in source.layers.by_id.values()
        if x.root == item.root
        and x.registered
        and (not x.path or item.path.startswith(f"{x.path}."))
    ]
    return max(inside, key=lambda x: len(x.path), default=None)


def _kind(item: Missing, rest: Sequence[str], holder: Layer) -> str | None:
    """What registers the attribute; None where no container of torch.nn does."""
    tensor = item.module < 0 or item.owner == holder.path
    if tensor and len(rest) == 1:
        return "Parameter"
    if tensor and len(rest) == 2:
        return "ParameterList" if rest[1].isdigit() else "ParameterDict"
    if not tensor and len(rest) > 2:
        return "ModuleList" if rest[1].isdigit() else "ModuleDict"
    return None


def _registration(source: Source, owner: str, attribute: str, kind: str) -> Edits | None:
    for file in source.files.values():
        values = [
            node.value
            for node in file.all(ast.Assign)
            if dotted(node.targets[0]) == f"self.{attribute}"
            and (around := file.enclosing(node, ast.ClassDef)) is not None
            and around.name == owner
        ]
        if not values:
            continue
        edits = Edits()
        name, imports = spelled(file, f"torch.nn.{kind}")
        for value in values:
            empty = isinstance(value, ast.List) and not value.elts
            edit = (
                [replaced(file, value, f"{name}()")]
                if empty
                else wrapped(file, value, value, f"{name}(", ")")
            )
            edits.add(file, [*imports, *edit])
        return edits
    return None


def as_wider_expression(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """``head.parameters()`` becomes ``model.parameters()`` or a sum over several models."""
    call = _only_call(recording, source)
    expression = _owner_expression(call) if call is not None else None
    if call is None or expression is None or call.parameters is None:
        return Edits()
    labels = _labels(recording)
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


def as_param_group(recording: Recording, source: Source, missing: Sequence[Missing]) -> Edits:
    """Add a group behind the optimizer's construction."""
    edits = Edits()
    call = _only_call(recording, source)
    if call is None or call.variable is None:
        return edits
    labels = _labels(recording)
    names = [_expression(source, m, labels.get(m.root, "")) for m in missing]
    if not all(names) or labels.get(missing[0].root) not in call.file.names:
        return edits
    group = f'{call.variable}.add_param_group({{"params": [{", ".join(n for n in names if n)}]}})'
    added = after_statement(call.file, call.file.statement(call.call), [group])
    if added is not None:
        edits.add(call.file, added)
    return edits


def _only_call(recording: Recording, source: Source) -> OptimizerCall | None:
    if len(recording.run.get("optimizers") or []) != 1:
        return None
    calls = optimizer_calls(recording, source, 0)
    return calls[0] if len(calls) == 1 else None


def _owner_expression(call: OptimizerCall) -> str | None:
    """``model.head`` for ``model.head.parameters()``."""
    node = call.parameters
    if isinstance(node, ast.Call) and not node.args and isinstance(node.func, ast.Attribute):
        return dotted(node.func.value) if node.func.attr == "parameters" else None
    return None


def _labels(recording: Recording) -> dict[int, str]:
    frame = recording.modules.astype(object)
    roots = frame[frame["module"] == frame["root"]]
    return {
        int(root): str(label)
        for root, label in zip(roots["module"], roots["root_label"], strict=True)
        if isinstance(label, str)
    }


def _expression(source: Source, item: Missing, label: str) -> str | None:
    """``model.net[0].weight``."""
    if not label.isidentifier():
        return None
    text = label
    for part in item.path.split("."):
        text += f"[{part}]" if part.isdigit() else f".{part}"
    return text
