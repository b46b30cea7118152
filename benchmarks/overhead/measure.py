"""Ratios of a tool's step to the bare step, from turns that alternate."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.overhead.tools import BARE, Tool
from benchmarks.overhead.turns import Loop, Turn
from benchmarks.overhead.workloads import WORKLOADS

TURN_SECONDS = 0.4
WHOLE_STEPS = 500


@dataclass(frozen=True)
class Cost:
    """What one tool costs on one workload.

    Attributes:
        cpu: median over turns of process CPU time a step, as a ratio to the bare turn beside it.
        low: lower quartile of that ratio.
        high: upper quartile.
        wall: the same median of wall time.
        bare: median seconds of the bare step.
        memory: largest resident memory beyond the bare process's, bytes.
        turns: how many.
        failed: why it could not be measured, or "".
    """

    cpu: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    wall: float = float("nan")
    bare: float = float("nan")
    memory: int = 0
    turns: int = 0
    failed: str = ""


def costs(workload: int, tools: Sequence[Tool], *, turns: int, whole: int) -> dict[str, Cost]:
    """Costs of ``tools`` on a workload, one after the other, each beside a bare loop of its own.

    Args:
        workload: index into WORKLOADS.
        tools: what to attach.
        turns: least number of turns.
        whole: least number of steps of a tool that decides by itself when to look.
    """
    found = {}
    for tool in tools:
        print(f"{WORKLOADS[workload].name}: {tool.name}", file=sys.stderr)
        try:
            found[tool.name] = _cost(workload, tool, turns, whole)
        except (RuntimeError, EOFError) as error:
            found[tool.name] = Cost(failed=str(error))
    return found


def _cost(workload: int, tool: Tool, turns: int, whole: int) -> Cost:
    loops = [Loop(workload, BARE)]
    try:
        loops.append(Loop(workload, tool))
        bare, watched = loops
        first = bare.run(3).wall
        steps = max(round(TURN_SECONDS / first), 1)
        bare.turns.clear()
        count = max(turns, -(-whole // steps) if tool.whole else 0)
        for number in range(count):
            # who goes first alternates, so that a drift of the machine favours nobody
            for loop in loops if number % 2 else loops[::-1]:
                loop.run(steps)
    finally:
        for loop in loops:
            loop.end()
    return _ratio(bare, watched, whole=tool.whole)


def _ratio(bare: Loop, watched: Loop, *, whole: bool) -> Cost:
    cpu = [b.cpu / a.cpu for a, b in zip(bare.turns, watched.turns, strict=True)]
    wall = [b.wall / a.wall for a, b in zip(bare.turns, watched.turns, strict=True)]
    low, middle, high = statistics.quantiles(cpu, n=4)
    return Cost(
        # rare costs are part of the promise: a tool that looks seldom is judged by its sum
        cpu=_total(watched.turns) / _total(bare.turns) if whole else middle,
        low=low, high=high,
        wall=statistics.median(wall),
        bare=statistics.median(turn.wall for turn in bare.turns),
        memory=watched.memory - bare.memory,
        turns=len(cpu),
    )  # fmt: skip


def _total(turns: Sequence[Turn]) -> float:
    return sum(turn.cpu for turn in turns)
