"""Pages in Debian's Chromium, watched for errors and requests."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js.gz"


def missing() -> bool:
    """Whether tests that need a browser may skip: never in CI."""
    return not Path(CHROMIUM).exists() and not os.environ.get("CI")


@contextmanager
def chromium() -> Iterator[Browser]:
    if missing():
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """An open page, with what it did wrong."""

    page: Page
    path: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def scroll_through(self) -> None:
        """Bring every figure into view and wait until all are drawn."""
        self.page.evaluate(
            "() => document.querySelectorAll('.plot').forEach(p => p.scrollIntoView())"
        )
        for box in self.page.locator(".plot").all():
            box.scroll_into_view_if_needed()
        self.page.wait_for_function("() => !document.querySelector('.plot:not(.drawn)')")


Opener = Callable[..., Opened]


@contextmanager
def opener(browser: Browser, folder: Path) -> Iterator[Opener]:
    """A function that opens HTML text from disk; each call has a fresh profile, offline."""
    contexts = []

    def open_page(html: str, hash: str = "", width: int = 1280, **context: Any) -> Opened:
        path = folder / f"page{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        settings = {"offline": True, "viewport": {"width": width, "height": 900}}
        made = browser.new_context(**(settings | context))
        contexts.append(made)
        opened = Opened(made.new_page(), path)
        page = opened.page
        page.on("console", lambda m: opened.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: opened.complaints.append(str(e)))
        page.on("request", lambda r: opened.requests.append(r.url))

        def dismiss(dialog: Any) -> None:
            opened.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.goto(path.as_uri() + hash)
        return opened

    yield open_page
    for context in contexts:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    # the page's own policy bars foreign scripts; evaluate() is not subject to it
    page.evaluate(gzip.decompress(AXE.read_bytes()).decode("utf-8"))
    result = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for v in result["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]
