"""``python -m benchmarks.nonfinite``: is the first NaN's origin told right, and at what cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import document
from benchmarks.nonfinite import table
from benchmarks.nonfinite.cost import costs
from benchmarks.nonfinite.named import Said, all_named
from benchmarks.nonfinite.plan import Case, plan
from benchmarks.nonfinite.tools import TOOLS, safely, unwatched

GOAL = 0.97
"""Least share of sick cases in which operation and module are right."""


def main(arguments: list[str] | None = None) -> int:
    """Run all, write the tables; 1 if a goal on right answers or silence is missed."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    said = all_named()
    cases = plan("long" if asked.long else "short")[:: asked.every]
    runs = []
    for number, case in enumerate(cases):
        runs.append(_run(case, asked.peers))
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {len(cases)}", end="", file=sys.stderr)
    measured = [] if asked.no_cost else costs(*((9, 20) if asked.long else (3, 4)))
    text = _text(said, runs, measured)
    if asked.write:
        document.write("nonfinite.md", text)
    print(text)
    return int(bool(_below(said, runs)))


def _run(case: Case, peers: bool) -> table.Run:
    finite, seconds = unwatched(case, sick=True)
    tools = list(TOOLS) if peers else ["gradscope"]
    answers = {tool: safely(tool, case, sick=True) for tool in tools}
    twins = {tool: safely(tool, case, sick=False) for tool in tools}
    return table.Run(case, not finite, answers, twins, seconds)


def _text(said: Sequence[Said], runs: Sequence[table.Run], measured: Sequence[object]) -> str:
    sick = sum(run.sick for run in runs)
    parts = [
        "### The cases by name\n",
        "\n".join(f"- {'right' if s.right else '**wrong**'}: {s.case.name}. {s.summary}"
                  for s in said),
        f"\n### {len(runs)} generated cases, {sick} of them sick\n",
        table.tools_table(runs),
        "",
        table.splits_table(runs),
    ]  # fmt: skip
    wrong = table.misses(runs)
    parts += ["\nWhat gradscope got wrong:\n", *(f"- {line}" for line in wrong or ["nothing"])]
    if measured:
        parts += ["\n### The trip-wire on steps without an alarm\n", table.costs_table(measured)]  # type: ignore[arg-type]
    return "\n".join(parts) + "\n"


def _below(said: Sequence[Said], runs: Sequence[table.Run]) -> list[str]:
    sick = [run for run in runs if run.sick]
    right = sum(table.both(run, run.answers["gradscope"]) for run in sick)
    below = [f"wrong: {s.case.name}" for s in said if not s.right]
    if sick and right / len(sick) < GOAL:
        below.append(f"operation and module right in {right} of {len(sick)}")
    below += [line for line in table.misses(runs) if "alarm" in line]
    for line in below:
        print(line, file=sys.stderr)
    return below


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nonfinite", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--short", action="store_true", help="some minutes (the default)")
    how.add_argument("--long", action="store_true", help="every operation at every place")
    parser.add_argument("--every", type=int, default=1, help="only every k-th case")
    parser.add_argument("--peers", action="store_true", help="run the peers as well")
    parser.add_argument("--no-cost", action="store_true", help="leave out what the wire costs")
    document.option(parser, "nonfinite.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
