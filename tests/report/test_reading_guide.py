"""docs/reading-the-report.md: a picture for each section, all of them there, none left over."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from gradscope.report import html

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "reading-the-report.md").read_text(encoding="utf-8")


def drawn() -> dict[str, str]:
    """Picture and part of the page, as docs/make_pictures.py has them."""
    tree = ast.parse((DOCS / "make_pictures.py").read_text(encoding="utf-8"))
    parts = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PARTS"
    )
    assert parts is not None
    pages = ast.literal_eval(parts)
    return {name: at for page in pages.values() for name, at in page.items()}


def test_every_picture_is_there_is_shown_and_can_be_made_anew() -> None:
    shown = set(re.findall(r"!\[[^\]]+\]\(pictures/([a-z]+)\.png\)", GUIDE))
    assert shown == {path.stem for path in (DOCS / "pictures").glob("*.png")}
    assert shown == set(drawn())


def test_every_figure_of_the_page_has_its_picture() -> None:
    template = Path(html.__file__).parent / "assets" / "templates" / "page.html.j2"
    figures = set(re.findall(r"m\.figure\(figures\.(\w+)", template.read_text(encoding="utf-8")))
    # the run-up stands beside the findings' curves, and only before a NaN
    assert {f"#{key}" for key in figures - {"runup"}} <= set(drawn().values())


def test_every_section_is_explained() -> None:
    titles = " ".join(re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)).casefold()
    for key, _ in (*html.SECTIONS[:5], html.BACKWARD):
        words = {"gradients": "gradient", "findings": "finding"}
        assert words.get(key, key) in titles, key
