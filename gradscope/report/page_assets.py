"""The files of ``assets/`` as the page takes them: joined, and the plotly bundle still packed."""

from __future__ import annotations

import base64
from functools import cache
from importlib import resources

PLOTLY_VERSION = "4.1.1"
PLOTLY_BUNDLE = f"plotly-cartesian-{PLOTLY_VERSION}.min.js.gz"
STYLES = ("css/base.css", "css/parts.css", "css/figures.css", "css/print.css")
BOOT = "js/boot.js"
SCRIPTS = ("js/state.js", "js/table.js", "js/figures.js", "js/page.js")
"""In this order: each uses what stands before it, and the last one starts the page."""

_ASSETS = resources.files("gradscope.report") / "assets"


@cache
def text(name: str) -> str:
    """A text file below ``assets/``."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def styles() -> str:
    """All style sheets."""
    return "\n".join(text(name) for name in STYLES)


def scripts() -> str:
    """All scripts as one, which leaves no name behind in the page."""
    return '(() => {\n"use strict";\n' + "\n".join(text(name) for name in SCRIPTS) + "\n})();"


@cache
def plotly_bundle() -> str:
    """The plotly bundle, gzip, as base64."""
    return base64.b64encode((_ASSETS / PLOTLY_BUNDLE).read_bytes()).decode("ascii")


def template_source(name: str) -> str:
    """Source of a template, for jinja2's FunctionLoader."""
    return text(f"templates/{name}")
