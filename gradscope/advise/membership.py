"""Parameters that no optimizer holds, and how the user's code would name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.advise.source import Source
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


def covered(recording: Recording, missing: Sequence[Missing]) -> list[tuple[int, str, bool]]:
    """The parameters as few paths: a whole module where all of it is missing, else single tensors.

    Returns:
        For each path its root's id, the path, and whether it is a module.
    """
    gone = {(m.root, m.path) for m in missing}
    frame = recording.parameters
    rest = {
        (int(root), str(path))
        for root, path, grad in zip(
            frame["root"], frame["path"], frame["requires_grad"], strict=True
        )
        if grad is not False and (int(root), str(path)) not in gone
    }
    found: dict[tuple[int, str, bool], None] = {}
    for item in missing:
        parts = item.path.split(".")
        path, whole = item.path, False
        for length in range(1, len(parts)):
            start = ".".join(parts[:length])
            if not any(root == item.root and other.startswith(f"{start}.") for root, other in rest):
                path, whole = start, True
                break
        found.setdefault((item.root, path, whole))
    return list(found)


def expression(variable: str, path: str) -> str:
    """``model.net[0].weight`` for the path ``net.0.weight``."""
    parts = [f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part]
    return variable + "".join(parts)


def root_labels(recording: Recording) -> dict[int, str]:
    """Variable of each root, where it is known."""
    frame = recording.modules.astype(object)
    roots = frame[frame["module"] == frame["root"]]
    return {
        int(root): str(label)
        for root, label in zip(roots["module"], roots["root_label"], strict=True)
        if isinstance(label, str) and label.isidentifier()
    }
