"""``python -m benchmarks.diagnose_speed``: seconds that all rules take over a large recording.

A stack of linear layers is really trained for some steps. Their rows are then repeated up to the
wanted number of steps, thinned as a recording on disk is (``gradscope.recording.retention``). The
training stands still, so that no rule stops early because all is well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gradscope
from gradscope.diagnose.engine import diagnose
from gradscope.recording.reader import Recording
from gradscope.recording.retention import Policy
from gradscope.rules import RULES

TRAINED = 12
"""Steps really trained; the last ``REPEATED`` of them are repeated."""
REPEATED = 6


def trained(parameters: int) -> Recording:
    """A recording of TRAINED steps of a model with that many parameters."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(parameters // 2 - 1):
        parts += [nn.Linear(16, 16), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(64, 16), torch.randint(4, (64,))
    with tempfile.TemporaryDirectory(prefix="gradscope-speed-") as folder:
        run = Path(folder) / "run"
        with gradscope.watch(model, run_dir=run, every=1, activations_every=1):
            for _ in range(TRAINED):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        return gradscope.load_run(run)


def repeated(recording: Recording, steps: int) -> Recording:
    """The same training over ``steps`` steps, of which those are kept that a folder keeps."""
    policy = Policy()
    kept = [np.arange(min(steps, policy.first)), np.arange(max(0, steps - policy.last), steps)]
    between = np.arange(policy.first, max(policy.first, steps - policy.last))
    stride = 1
    while len(between) > stride * policy.middle[0]:
        stride *= 2
    sampled = np.unique(np.concatenate([*kept, between[::stride]]))
    rows = {name: _rows(table, sampled) for name, table in recording._rows.items()}
    records = {
        name: _records(items, sampled if name == "losses" else np.arange(steps))
        if name in ("steps", "events", "losses")
        else items
        for name, items in recording._records.items()
    }
    return Recording(rows, records, blobs=recording._blobs)


def _rows(table: np.ndarray[Any, Any], steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    own = [table[table["step"] == step] for step in range(TRAINED - REPEATED, TRAINED)]
    parts = []
    for place, step in enumerate(steps):
        part = own[place % REPEATED].copy()
        part["step"] = step
        parts.append(part)
    return np.concatenate(parts)


def _records(items: list[dict[str, Any]], steps: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    own = [
        [item for item in items if item["step"] == step]
        for step in range(TRAINED - REPEATED, TRAINED)
    ]
    return [
        item | {"step": int(step)}
        for place, step in enumerate(steps)
        for item in own[place % REPEATED]
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the seconds of each rule and of all together; 1 if these are above the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnose_speed")
    parser.add_argument("--parameters", type=int, default=300)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds for all rules")
    asked = parser.parse_args(arguments)
    large = repeated(trained(asked.parameters), asked.steps)
    each = []
    for rule in RULES:
        fresh = Recording(large._rows, large._records, blobs=large._blobs)
        begun = time.perf_counter()
        diagnose(fresh, [rule])
        each.append((time.perf_counter() - begun, rule))
    fresh = Recording(large._rows, large._records, blobs=large._blobs)
    begun = time.perf_counter()
    found = diagnose(fresh, RULES)
    seconds = time.perf_counter() - begun
    print("| rule alone | seconds |", "|---|---|", sep="\n")
    for own, rule in sorted(each, key=lambda pair: -pair[0])[:8]:
        print(f"| {rule.code} {rule.name} | {own:.2f} |")
    print(
        f"\n{len(large.gradients):,} rows of gradients, {len(large.sketches):,} sketches, "
        f"{len(large.activations):,} rows of activations; findings: "
        f"{', '.join(f.code for f in found.findings) or 'none'}; errors: {len(found.errors)}"
    )
    print(f"all {len(RULES)} rules: {seconds:.2f} s, the limit is {asked.limit:g} s")
    return int(seconds > asked.limit)


if __name__ == "__main__":
    raise SystemExit(main())
