"""Makes the pictures of reading-the-report.md: ``python docs/make_pictures.py``.

Needs Chromium and the ``test`` extra. They show sample reports at 1,000 pixels in the light theme,
reduced to 128 colours, which a page of text and lines does not miss.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
REPORTS = DOCS.parent / "reports"
PARTS: dict[str, dict[str, str]] = {
    "vanishing_sigmoid": {
        "verdict": "#verdict",
        "finding": "#findings .card",
        "map": "#map",
        "depth": "#depth",
        "gain": "#gain",
        "curves": "#curves",
        "updates": "#updates",
        "units": "#units",
        "formats": "#formats",
        "noise": "#noise",
        "checks": "#checks",
        "layers": "#layers",
    },
    "wrong_backward": {"backward": "#gradcheck"},
}
"""For each page its pictures, and what of the page is on them."""
TALLEST = 1_500
"""Pixels after which a picture is cut: a whole card is longer than a reader scrolls."""


def main() -> None:
    """Take all pictures anew."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1_000, "height": 900}, color_scheme="light")
        for report, parts in PARTS.items():
            page.goto((REPORTS / f"{report}.html").as_uri())
            page.evaluate(
                "() => document.querySelectorAll('.plot').forEach(p => p.scrollIntoView())"
            )
            page.wait_for_function("() => !document.querySelector('.plot:not(.drawn)')")
            # the bar is fixed to the window and would lie over what is photographed
            page.add_style_tag(content=".bar { position: static !important }")
            for name, selector in parts.items():
                take(page, selector, DOCS / "pictures" / f"{name}.png")
        browser.close()


def take(page: Page, selector: str, path: Path) -> None:
    """One picture of the first element that ``selector`` finds."""
    raw = page.locator(selector).first.screenshot()
    path.parent.mkdir(exist_ok=True)
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    # this method keeps rare colours: the small coloured signs carry meaning
    few = picture.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
