"""The costs as Markdown, and the goals that they are held against."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping

import torch

from benchmarks.overhead.measure import Cost
from benchmarks.overhead.workloads import WORKLOADS

GOALS: dict[str, tuple[float, ...]] = {
    "gradscope statistics, torch": (1.06, 1.008, 1.012, 1.09, 1.13),
    "gradscope statistics, kernel": (1.025, 1.003, 1.004, 1.035, 1.04),
    "gradscope watch, budget 3 %": (1.03,) * 5,
    "gradscope watch, every=1": (1.15, 1.06, 1.06, 1.6, 1.3),
}
"""Largest ratios to the bare step, W1 to W5."""


def costs_table(found: Mapping[str, Mapping[str, Cost]]) -> str:
    """Rows are tools, columns workloads: CPU time a step as a ratio to the bare step's."""
    names = [work.name for work in WORKLOADS if work.name in found]
    tools = list(dict.fromkeys(tool for own in found.values() for tool in own))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    bare = [next((c.bare for c in found[n].values() if not c.failed), math.nan) for n in names]
    lines.append("| bare step, ms | " + " | ".join(f"{1e3 * b:.1f}" for b in bare) + " |")
    for tool in tools:
        cells = [_cell(found[name].get(tool)) for name in names]
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
        if tool in GOALS:
            goals = dict(zip((w.name for w in WORKLOADS), GOALS[tool], strict=True))
            lines.append(
                "| *goal* | " + " | ".join(f"*≤ {goals[name]:g}*" for name in names) + " |"
            )
    return "\n".join(lines)


def memory_table(found: Mapping[str, Mapping[str, Cost]]) -> str:
    """Largest resident memory beyond the bare loop's, MB."""
    names = [work.name for work in WORKLOADS if work.name in found]
    tools = list(dict.fromkeys(tool for own in found.values() for tool in own))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for tool in tools:
        costs = [found[name].get(tool) for name in names]
        cells = ["" if c is None or c.failed else f"{c.memory / 1e6:.0f}" for c in costs]
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, {_processor()}, 1 thread"
    )


def _processor() -> str:
    return platform.processor() or platform.machine()


def _cell(cost: Cost | None) -> str:
    if cost is None:
        return ""
    if cost.failed:
        return "failed"
    if math.isnan(cost.cpu):
        return ""
    return f"{cost.cpu:.3f} ({cost.low:.2f}–{cost.high:.2f})"
