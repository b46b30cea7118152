"""The files of ``assets/`` as the page takes them: joined, and the plotly bundle still packed."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from functools import cache
from importlib import resources

import gradscope
from gradscope.report import theme

PLOTLY_VERSION = "4.1.1"
PLOTLY_BUNDLE = f"plotly-cartesian-{PLOTLY_VERSION}.min.js.gz"
STYLES = (
    "css/base.css", "css/parts.css", "css/figures.css", "css/trace.css", "css/print.css",
)  # fmt: skip
BOOT = "js/boot.js"
SCRIPTS = (
    "js/state.js", "js/table.js", "js/layer.js", "js/fold.js", "js/figures.js", "js/page.js",
)  # fmt: skip
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


PLACES = ("inline", "linked")
"""Where a page has its styles and scripts: in itself, or in files beside it."""


@dataclass(frozen=True)
class Linked:
    """Names of the files beside a page; pages in one folder share them."""

    styles: str
    boot: str
    script: str
    plotly: str


def linked() -> Linked:
    """The names that this version of gradscope uses."""
    stem = f"gradscope-{gradscope.__version__}"
    plotly = PLOTLY_BUNDLE.removesuffix(".gz")
    return Linked(f"{stem}.css", f"{stem}.boot.js", f"{stem}.js", plotly)


def linked_files() -> dict[str, str]:
    """Text of each file beside a page, by name."""
    names = linked()
    plotly = gzip.decompress((_ASSETS / PLOTLY_BUNDLE).read_bytes()).decode("utf-8")
    return {
        names.styles: theme.style_sheet() + styles(),
        names.boot: text(BOOT),
        names.script: scripts(),
        names.plotly: plotly,
    }


@cache
def plotly_bundle() -> str:
    """The plotly bundle, gzip, as base64."""
    return base64.b64encode((_ASSETS / PLOTLY_BUNDLE).read_bytes()).decode("ascii")


def template_source(name: str) -> str:
    """Source of a template, for jinja2's FunctionLoader."""
    return text(f"templates/{name}")
