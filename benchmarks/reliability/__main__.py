"""``python -m benchmarks.reliability``: faults on purpose, and hostile input by the thousand."""

from __future__ import annotations

import argparse
import sys

from benchmarks import document
from benchmarks.reliability.faults import outcomes
from benchmarks.reliability.fuzz import fuzz

SHORT, LONG = 2_000, 100_000


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 if a promise did not hold or an input crashed a reader."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--long", action="store_true", help=f"{LONG:,} inputs, and the faults")
    parser.add_argument("--inputs", type=int, help=f"hostile inputs (default: {SHORT:,})")
    document.option(parser, "reliability.md")
    asked = parser.parse_args(arguments)
    counts = fuzz(asked.inputs or (LONG if asked.long else SHORT))
    lines = ["| input | tried | read | refused | crashed |", "|---|---|---|---|---|"]
    lines += [
        f"| {c.name} | {c.inputs:,} | {c.read:,} | {c.refused:,} | {len(c.crashes):,} |"
        for c in counts
    ]
    # the short form leaves the faults to pytest, which runs them as well
    rows = outcomes() if asked.long else []
    if rows:
        lines += ["", "| what goes wrong | what must happen | outcome |", "|---|---|---|"]
        lines += [f"| {row.fault} | {row.promise} | {row.said} |" for row in rows]
    text = "\n".join(lines)
    print(text)
    if asked.write:
        document.write("reliability.md", text)
    for count in counts:
        for crash in count.crashes[:5]:
            print(f"{count.name}: {crash}", file=sys.stderr)
    broken = any(row.said == "failed" for row in rows)
    return int(broken or any(count.crashes for count in counts))


if __name__ == "__main__":
    raise SystemExit(main())
