"""``python -m benchmarks.overhead``: what watching costs, beside the bare loop and the peers."""

from __future__ import annotations

import argparse
import sys

from benchmarks import document
from benchmarks.overhead import once, table
from benchmarks.overhead.measure import WHOLE_STEPS, Cost, costs
from benchmarks.overhead.tools import OWN, PEERS
from benchmarks.overhead.workloads import WORKLOADS

CEILING = 3.0
"""The short form fails above this ratio of ``watch(every=1)`` on W1: far above the goal, since a
shared machine is noisy, and far below what an accidental copy or wait would cost."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the short form finds a cost that cannot be noise."""
    asked = _parser().parse_args(arguments)
    tools = [tool for tool in (*OWN, *PEERS * asked.peers) if tool.installed]
    if asked.tool:
        tools = [tool for tool in tools if any(word in tool.name for word in asked.tool)]
    names = asked.workload or ([w.name for w in WORKLOADS] if asked.long else ["W1", "W4"])
    found: dict[str, dict[str, Cost]] = {}
    for index, work in enumerate(WORKLOADS):
        if work.name in names:
            whole = WHOLE_STEPS if asked.long else 100
            found[work.name] = costs(index, tools, turns=asked.turns, whole=whole)
    text = "\n\n".join(
        [
            f"CPU time a step as a ratio to the bare step (quartiles); {table.machine()}.",
            table.costs_table(found),
            "Largest resident memory beyond the bare loop's, MB.",
            table.memory_table(found),
        ]
    )
    print(text)
    if not asked.tool:
        sentence = _once(asked.long)
        print(sentence)
        text = f"{text}\n\n{sentence}"
    for work, own in found.items():
        for tool, cost in own.items():
            if cost.failed:
                print(f"{work}, {tool}: {cost.failed}", file=sys.stderr)
    if asked.write:
        document.write("overhead.md", text)
    every = found.get("W1", {}).get("gradscope watch, every=1")
    return int(every is not None and not every.cpu < CEILING)


def _once(long: bool) -> str:
    plain, added = once.import_seconds(7 if long else 3)
    before, after = once.shares_when_steps_shrink(400 if long else 100)
    attached = once.attach_seconds(1_000, 7 if long else 3)
    return (
        f"`import gradscope` adds {1e3 * added:.0f} ms to `import torch` ({1e3 * plain:.0f} ms); "
        f"`watch` attaches to 1,000 modules in {1e3 * attached:.0f} ms; under `budget=0.03` it "
        f"took {100 * before:.1f} % of the time, and {100 * after:.1f} % after they had become "
        "ten times shorter."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--long", action="store_true", help="all workloads, 500 steps a tool")
    parser.add_argument("--turns", type=int, default=9, help="least turns a tool (default: 9)")
    parser.add_argument("--peers", action="store_true", help="the peers that are installed as well")
    parser.add_argument("--workload", action="append", help="W1 to W5; may be repeated")
    parser.add_argument("--tool", action="append", help="part of a tool's name; may be repeated")
    document.option(parser, "overhead.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
