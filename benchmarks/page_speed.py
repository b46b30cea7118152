"""How long a report of 1,000 layers and 10,000 steps takes to open.

``python benchmarks/page_speed.py`` makes one and opens it in Chromium.

Needs Chromium and the ``test`` extra. With the path of a page it measures that one. It prints the
page's size and, as the median of five openings with an empty cache and no network, the milliseconds
from the start of the navigation until

- the page answers: its script has run, its keys, links, table and filter work;
- the map is drawn, when it is the first thing looked at.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

TESTS = Path(__file__).parents[1] / "tests" / "report"
OPENINGS = 5


def large_page(folder: Path) -> Path:
    """The page of the tests' sample run, large."""
    sys.path.append(str(TESTS))
    from sample import Shape, diagnosis  # the sample belongs to the tests

    from gradscope.report.html import render

    shape = Shape(layers=999, steps=10_000, every=5_000, decades=0.008, sampled=400)
    path = folder / "large.html"
    path.write_text(render(diagnosis(shape)), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path) -> tuple[float, float]:
    """Milliseconds until the page answers, and until its map is drawn."""
    context = browser.new_context(viewport={"width": 1_280, "height": 900}, offline=True)
    page = context.new_page()
    page.goto(f"{path.as_uri()}#map", wait_until="commit")
    page.wait_for_function("() => document.querySelector('#map .plot.drawn')", timeout=60_000)
    answers, drawn = page.evaluate(
        """() => [
          performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,
          performance.getEntriesByName('map drawn')[0].startTime,
        ]"""
    )
    context.close()
    return float(answers), float(drawn)


def main(arguments: list[str]) -> None:
    """Print the two medians."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(arguments[0]).resolve() if arguments else large_page(Path(folder))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        times = [opened(browser, path) for _ in range(OPENINGS)]
        browser.close()
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        for name, values in zip(
            ("answers after", "map drawn after"), zip(*times, strict=True), strict=True
        ):
            spread = f"{min(values):.0f} to {max(values):.0f}"
            print(f"{name} {statistics.median(values):.0f} ms (of {OPENINGS}: {spread})")


if __name__ == "__main__":
    main(sys.argv[1:])
