"""A finite-difference check as a recording: what the rule, the report and other commands read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gradscope.finite_difference.localise import Checked
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.units import LOSS
from gradscope.observe.inventory import Inventory
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.recording.writer import Writer

Records = dict[str, list[dict[str, Any]]]


def records_of(model: nn.Module, label: str, checked: Checked) -> Records:
    """The tables ``modules``, ``parameters``, ``sources`` and ``gradchecks``.

    Args:
        model: the user's own, whose modules' lines can be found.
        label: name of its variable.
        checked: what was found out.
    """
    inventory = Inventory([model], [label])
    modules, parameters, sources = inventory.refresh(0)
    ids = {str(record["path"]): int(record["module"]) for record in modules}
    for alias, identity in [(a, m["module"]) for m in modules for a in m["aliases"]]:
        ids.setdefault(str(alias), int(identity))
    if LOSS in checked.modules and LOSS not in ids:
        modules.append(_loss_record(modules[0], max(ids.values()) + 1))
        ids[LOSS] = max(ids.values()) + 1
    rows = [
        _row(ids.get(name, 0), outcome)
        for name, result in checked.modules.items()
        for outcome in result.outcomes
    ]
    if checked.reason:
        rows.append(_row(0, Outcome("", "inconclusive", reason=checked.reason)))
    files = {str(r["detail"]["file"]): None for r in rows if r["detail"].get("file")}
    sources = [*sources, *inventory.sources_of(files)]
    return {
        "modules": modules,
        "parameters": parameters,
        "sources": sources,
        "gradchecks": rows,
    }


def in_memory(records: Records, facts: Mapping[str, Any]) -> Recording:
    """A recording that is nowhere on disk."""
    run = [{"key": key, "value": value} for key, value in facts.items()]
    return Recording({}, {**records, "run": run})


def on_disk(
    records: Records, facts: Mapping[str, Any], folder: Path, *, overwrite: bool
) -> Recording:
    """A recording in a run folder.

    Raises:
        RunFolderError: the folder is taken.
    """
    writer = Writer(folder, overwrite=overwrite)
    for key, value in facts.items():
        writer.set(key, value)
    for table, items in records.items():
        if items:
            writer.records(table, items)
    writer.close()
    return load_run(folder)


def run_facts(model: nn.Module, label: str) -> dict[str, Any]:
    """Facts about the process and the model."""
    return Inventory([model], [label]).run_facts()


def _row(module: int, outcome: Outcome) -> dict[str, Any]:
    detail = dict(outcome.detail)
    if outcome.reason:
        detail["reason"] = outcome.reason
    return {
        "module": module,
        "tensor": outcome.tensor,
        "verdict": outcome.verdict,
        "kind": outcome.kind,
        "analytic": outcome.analytic,
        "numeric": outcome.numeric,
        "error_bar": outcome.error_bar,
        "detail": detail,
    }


def _loss_record(root: Mapping[str, Any], identity: int) -> dict[str, Any]:
    """A record for what stands behind the model, which is no module of it."""
    absent = dict.fromkeys(
        ("order", "calls", "file", "line", "built_by", "torch_type", "activation")
    )
    return {
        **root, **absent, "module": identity, "path": LOSS, "type": LOSS, "aliases": [],
        "leaf": True, "registered": False, "parameters": 0, "settings": {}, "trained": None,
    }  # fmt: skip
