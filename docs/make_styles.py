"""Writes docs/styles.md from the tests' own results: ``python docs/make_styles.py``.

It runs ``tests/styles`` and puts down what each test has measured. A test that fails, or one that a
machine cannot run, keeps its row from being written: the row of a CUDA test is kept as it was.
"""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "styles"
PARTS = (
    "the step", "the backward", "the scale", "the model", "the tensor", "the process",
    "several ranks", "NaN and Inf", "the watching itself",
)  # fmt: skip
HEAD = """\
# Styles of training

Each row is a test in [tests/styles](../tests/styles) that trains plainly and under watch. Both runs
end in the same weights, losses and random states, bit for bit. *Plain run* is a number that the
plain run computes with autograd alone; *recorded* is what gradscope wrote down; *a naive tool* is
what is measured by a tool that does not know the style. What is not recorded is absent from the
recording, never 0; where a style keeps something out of sight the report's banner and `limits` in
the JSON say so.

This page is made by `python docs/make_styles.py`. Each test also compares its own row with it.
"""


class Collector:
    """Keeps the row that each test has told."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}
        self.failed: list[str] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the tests know that the page is being made: they do not compare with it."""
        config.pluginmanager.register(object(), "styles-page")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test has ended."""
        if report.failed:
            self.failed.append(report.nodeid)
        for name, value in report.user_properties:
            if name == "style" and report.when == "teardown":
                self.rows[report.nodeid] = json.loads(str(value))


def page(rows: list[dict[str, object]]) -> str:
    """The text of docs/styles.md for the rows, in the order in which the tests ran."""
    from style import Table  # the tests' own; pytest must be the first to import it

    parts = []
    for part in PARTS:
        lines = [Table.line(row) for row in rows if row["part"] == part]
        if lines:
            parts.append(f"\n## {part[0].upper()}{part[1:]}\n\n{Table.HEAD}{''.join(lines)}")
    return HEAD + "".join(parts)


def main() -> int:
    """Run the tests and write the page."""
    collector = Collector()
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", f"--ignore={TESTS / 'test_page.py'}"]
    code = pytest.main([*options, str(TESTS)], plugins=[collector])
    if collector.failed or code:
        print("not written: these tests failed", *collector.failed, sep="\n  ")
        return int(code) or 1
    text = page(list(collector.rows.values()))
    (ROOT / "docs" / "styles.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
