"""Puts what a benchmark has measured into its page in docs/, between two marks."""

from __future__ import annotations

import argparse
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def option(parser: argparse.ArgumentParser, page: str) -> None:
    """Add ``--write``: put the tables into ``docs/<page>``."""
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{page}")


def write(page: str, tables: str, docs: Path = DOCS) -> None:
    """Replace what stands between the marks of ``docs/<page>``.

    Raises:
        ValueError: the page has not both marks, once and in order.
    """
    path = docs / page
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{path} needs the marks {BEGIN} and {END}, once each and in this order")
    path.write_text(f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}", encoding="utf-8")
