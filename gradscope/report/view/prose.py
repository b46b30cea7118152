"""Sentences and rule pages as safe markup."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from gradscope.report.clean import one_line
from gradscope.report.escape import scrub
from gradscope.report.view.numerals import crossed

WHOLE = 24
"""Characters up to which a name is kept on one line: a phone shows them."""
_CODE = re.compile(r"`([^`]+)`")
_POWER = re.compile(r"([×+-]?\d[\d.,]*e-\d+x?)")
"""A number with a negative power of ten, which a browser would break behind the hyphen."""
_HEADING = re.compile(r"^##\s+(.+?)\s*$", re.MULTILINE)
# raw HTML stays text: rule pages may come from other packages
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def sentence(text: str) -> Markup:
    """``text`` with its first letter large and a full stop, backquoted names set as code."""
    shown = one_line(scrub(text)).rstrip(".")
    # a name keeps its own letters
    shown = shown if shown.startswith("`") else shown[:1].upper() + shown[1:]
    ending = "" if shown.endswith(("?", "!", ":", "…")) else "."
    return prose(shown + ending) if shown else Markup("")


def prose(text: str) -> Markup:
    """``text`` escaped, with backquoted names set as code."""
    parts = _CODE.split(one_line(scrub(text)))
    return Markup("").join(
        Markup("<code>{}</code>").format(breakable(part)) if at % 2 else _text(part)
        for at, part in enumerate(parts)
    )


def _text(part: str) -> Markup:
    pieces = _POWER.split(part)
    return Markup("").join(
        Markup('<span class="nowrap">{}</span>').format(piece) if at % 2 else escape(piece)
        for at, piece in enumerate(map(crossed, pieces))
    )


def breakable(name: str, whole: int = WHOLE) -> Markup:
    """``name`` escaped; one of more than ``whole`` characters with places where it may break."""
    shown = one_line(name)
    if len(shown) <= whole:
        return escape(shown)
    return Markup("<wbr>").join(re.split(r"(?<=[._/:])(?=\S)", shown))


def page(markdown: str, level: int = 3) -> Markup:
    """A rule's page as markup, its headings moved down so that the largest has ``level``."""
    tokens = _MARKDOWN.parse(scrub(markdown))
    sizes = [int(token.tag[1]) for token in tokens if token.type == "heading_open"]
    shift = level - min(sizes, default=level)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + shift, 6)}"
        elif token.type == "fence":
            # a code block that scrolls must be reachable by keyboard
            token.attrSet("tabindex", "0")
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def section(markdown: str, heading: str) -> Markup:
    """What stands under ``## heading`` in a rule's page; empty if there is no such heading."""
    parts = _HEADING.split(markdown)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title.casefold() == heading.casefold():
            return page(body.strip(), level=5)
    return Markup("")
