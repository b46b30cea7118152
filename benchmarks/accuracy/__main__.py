"""``python -m benchmarks.accuracy``: measure gradscope's verdicts on labelled trainings."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import document
from benchmarks.accuracy import judging, misses, table
from benchmarks.accuracy.detectors import torchmortem
from benchmarks.accuracy.plan import plan
from benchmarks.accuracy.running import run
from benchmarks.accuracy.store import DEFAULT, Job, Store

PEERS_EVERY = 3
"""Peers see every third training of the plan, which is in random order: they cost more than
everything else together."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then write the table; 1 if a figure is below its limit."""
    asked = _parser().parse_args(arguments)
    size = "long" if asked.long else "short"
    cases = plan(asked.part, size)
    if asked.fault:
        cases = tuple(c for c in cases if c.fault in asked.fault)
    if asked.family:
        cases = tuple(c for c in cases if c.family in asked.family)
    store = Store(asked.results, any_version=asked.keep)
    trainings = {case: [*judging.label_jobs(case)] for case in cases}
    if asked.finished:
        cases = tuple(
            case for case in cases if not store.missing([*trainings[case], Job("gradscope", case)])
        )
    else:
        jobs = [job for own in trainings.values() for job in own]
        if asked.peers:
            jobs += [Job(tool, case) for case in cases[::PEERS_EVERY] for tool in _peers()]
        run(jobs, store, processes=asked.jobs)
        run([Job("gradscope", case) for case in cases], store, processes=asked.jobs)
    judged = judging.under_gradscope(cases, store)
    text = table.report(judged, store, part=asked.part, size=size, peers=asked.peers)
    if asked.write:
        document.write("accuracy.md", text)
    print(text)
    if asked.misses is not None:
        asked.misses.write_text(misses.listing(judged, store), encoding="utf-8")
    below = table.below_limits(judged, surely=size == "short")
    for sentence in below:
        print(sentence, file=sys.stderr)
    return int(bool(below))


def _peers() -> list[str]:
    return ["published"] + ["torchmortem"] * torchmortem.installed()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--short",
        action="store_true",
        help="a few minutes (the default); fails where a figure surely misses its limit",
    )
    how.add_argument("--long", action="store_true", help="everything")
    parser.add_argument("--part", choices=("tuning", "reporting"), default="reporting")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    document.option(parser, "accuracy.md")
    parser.add_argument("--misses", type=Path, help="write what was missed to this file")
    parser.add_argument("--results", type=Path, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--peers", action="store_true", help="run the peers as well")
    parser.add_argument("--keep", action="store_true", help="take results of older code as well")
    parser.add_argument(
        "--finished", action="store_true", help="run nothing: judge the cases that are finished"
    )
    parser.add_argument("--fault", action="append", help="only this fault; may be repeated")
    parser.add_argument("--family", action="append", help="only this family; may be repeated")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
