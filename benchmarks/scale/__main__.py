"""``python -m benchmarks.scale``: what long and wide recordings cost, and reading them."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any

from benchmarks import document
from benchmarks.scale import measure

FLAT = 3.0
"""The short form fails if a step at the end of a run costs this many times one in its middle."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the cost of a step grows with the steps before it."""
    asked = _parser().parse_args(arguments)
    long = asked.long
    widths = _apart(measure.seconds_by_tensors, (100, 1_000, 10_000) if long else (100, 1_000), 40)
    steps = 1_000_000 if long else 4_000
    grown = _apart(
        measure.growth, 1_000 if long else 100, steps,
        every=50 if long else 2, modules_every=500 if long else 20,
    )  # fmt: skip
    narrow = _apart(measure.growth, 2, steps, every=1, modules_every=10)
    read = _apart(
        measure.reading, 1_000 if long else 100, 100_000 if long else 2_000,
        every=50 if long else 2, keep=100_000, report=True,
    )  # fmt: skip
    merged = _apart(
        measure.reading, 200 if long else 20, 600 if long else 60,
        every=1, keep=20_000, report=False, ranks=64 if long else 4,
    )  # fmt: skip
    text = "\n\n".join(
        [
            _table(
                "tensors | CPU ms a step | µs a tensor",
                [(n, f"{1e3 * s:.2f}", f"{1e6 * s / n:.1f}") for n, s in widths.items()],
            ),
            _growth(f"{1_000 if long else 100} parameter tensors and their modules", grown),
            _growth("2 parameter tensors, recorded on every step", narrow),
            _table(
                "read | disk, MB | step records | gradient rows | seconds | memory, MB | page, s",
                [_reading("one rank", read), _reading(f"{64 if long else 4} ranks", merged)],
            ),
        ]
    )
    print(text)
    if asked.write:
        document.write("scale.md", text)
    middle, last = narrow[len(narrow) // 2], narrow[-1]
    return int(last.seconds > FLAT * middle.seconds)


def _apart(measured: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run in a process of its own, whose memory nothing else has filled."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, args, kwargs)


def _growth(title: str, looks: list[measure.Growth]) -> str:
    rows = [
        (f"{g.steps:,}", f"{1e3 * g.seconds:.3f}", f"{g.disk / 1e6:.1f}", f"{g.memory / 1e6:.0f}")
        for g in looks
    ]
    return title + "\n\n" + _table("steps | CPU ms a step | disk, MB | memory, MB", rows)


def _reading(name: str, read: measure.Reading) -> tuple[str, ...]:
    page = "" if read.report is None else f"{read.report:.1f}"
    return (
        name, f"{read.disk / 1e6:.0f}", f"{read.steps:,}", f"{read.rows:,}",
        f"{read.seconds:.1f}", f"{read.memory / 1e6:.0f}", page,
    )  # fmt: skip


def _table(heads: str, rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {heads} |", "|" + "---|" * (heads.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--long", action="store_true", help="a million steps, 64 ranks")
    document.option(parser, "scale.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
