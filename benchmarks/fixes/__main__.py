"""``python -m benchmarks.fixes``: what tried fixes are worth, on trainings with a known mend."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import document
from benchmarks.accuracy import families, faults, judging, labelling
from benchmarks.accuracy.cases import NO_FAULT, Case
from benchmarks.accuracy.plan import plan, twin_of
from benchmarks.accuracy.running import run
from benchmarks.accuracy.store import Job, Store
from benchmarks.fixes import table
from benchmarks.fixes.evaluating import evaluate
from gradscope.advise.trials import Limits

DEFAULT = Path(".gradscope") / "bench" / "fixes.jsonl"
LABELS = Path(".gradscope") / "bench" / "accuracy.jsonl"
SHORT = 6
"""Sick trainings of the short form."""
HEALTHY_EVERY = 4
"""One healthy training, for its placebos, to so many sick ones."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then write the table; 1 if a figure is below its goal."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    store = Store(asked.labels)
    rows = _known(asked.results)
    deadline = time.monotonic() + 60 * asked.minutes
    count = {"sick": 0, "healthy": 0}
    for case in _cases(asked.part, asked.plan):
        if time.monotonic() > deadline or (asked.short and count["sick"] >= SHORT):
            break
        faulty = case.fault != NO_FAULT and bool(faults.BY_NAME[case.fault].codes)
        enough = count["healthy"] * HEALTHY_EVERY >= count["sick"]
        if (not faulty and enough) or (faulty and _is_mildest(case)):
            continue
        label = rows[case.key]["label"] if case.key in rows else _label(case, store, faulty)
        if label not in count or (label == "healthy" and enough):
            continue
        if label == "sick" and not faulty:
            continue  # a look-alike that happens to fail has no known mend
        count[label] += 1
        if case.key not in rows:
            placebos = not asked.short and (label == "healthy" or count["sick"] % 3 == 1)
            row = _row(case, label, store, thorough=not asked.short, placebos=placebos)
            rows[case.key] = row
            _keep(asked.results, row)
            _tell(row, count)
    chosen = [row for row in rows.values() if row["part"] == asked.part]
    text = table.report(chosen, part=asked.part)
    if asked.write:
        document.write("fixes.md", text)
    print(text)
    below = table.below_goals(chosen)
    for sentence in below:
        print(sentence, file=sys.stderr)
    return int(bool(below))


def _cases(part: Any, kept: Path | None) -> Iterator[Case]:
    if kept is not None and kept.exists():
        for fields in json.loads(kept.read_text(encoding="utf-8")):
            yield Case(**fields)
        return
    cases = plan(part, "long")
    if kept is not None:
        kept.write_text(json.dumps([asdict(case) for case in cases]), encoding="utf-8")
    yield from cases


def _is_mildest(case: Case) -> bool:
    """Whether it is the harmless strength of a fault, which is there to be labelled healthy."""
    levels = faults.BY_NAME[case.fault].levels
    return len(levels) > 2 and case.level == levels[0]


def _label(case: Case, store: Store, faulty: bool) -> str:
    """The measured label; "" where it is not needed, or cannot be had."""
    try:
        if faulty and _learns(case, store):
            return ""
        run(judging.label_jobs(case), store)
    except RuntimeError as error:
        # a training that crashes has no quality to be compared with
        print(f"left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return ""
    return judging.label_of(case, store)


def _learns(case: Case, store: Store) -> bool:
    """Whether two trainings are enough to see that it is not sick: most of them need no more."""
    twin = twin_of(case)
    if twin is None:
        return False
    run([Job("plain", case), Job("plain", twin)], store)
    own, other = (store[Job("plain", c)]["share"] for c in (case, twin))
    return bool(own >= labelling.SICK * other or other < labelling.FLOOR / 2)


def _row(case: Case, label: str, store: Store, *, thorough: bool, placebos: bool) -> dict[str, Any]:
    _, twin = judging.shares_of(case, store)
    row = {"key": case.key, "label": label, "case": asdict(case), "twin": twin[:1],
           "part": _part_of(case)}  # fmt: skip
    try:
        return {**row, **evaluate(case, Limits(), thorough=thorough, placebos=placebos)}
    except Exception:
        # one broken case must not cost the others; it counts as one that was not mended
        return {**row, "crashed": traceback.format_exc(limit=-3)}


def _part_of(case: Case) -> str:
    return families.BY_NAME[case.family].part


def _known(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


def _keep(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _tell(row: dict[str, Any], count: dict[str, int]) -> None:
    done = row.get("top")
    what = f"{done['fix']} {done['status']}, {done['share']:.2f}" if done else "no fix"
    twin = f"{row['twin'][0]:.2f}" if row["twin"] else "none"
    print(f"{count['sick']}+{count['healthy']} {row['key']}: {what}, twin {twin}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fixes", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--short", action="store_true", help="a few trainings (for CI)")
    how.add_argument("--long", action="store_true", help="as many as --minutes allow (default)")
    parser.add_argument("--part", choices=("tuning", "reporting"), default="reporting")
    parser.add_argument("--minutes", type=float, default=25.0, help="default: 25")
    document.option(parser, "fixes.md")
    parser.add_argument("--results", type=Path, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--labels", type=Path, default=LABELS, help=f"default: {LABELS}")
    parser.add_argument("--plan", type=Path, help="keep the list of cases in this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
