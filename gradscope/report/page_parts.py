"""What every page is made with: the templates' environment and the packed figures."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence

from jinja2 import Environment, FunctionLoader, StrictUndefined

from gradscope.report import page_assets
from gradscope.report.clean import one_line
from gradscope.report.escape import scrub
from gradscope.report.figures.figure import Figure
from gradscope.report.view import prose


def environment() -> Environment:
    """The templates, which escape whatever is put into them."""
    made = Environment(
        loader=FunctionLoader(page_assets.template_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["clean"] = lambda text: scrub(one_line(str(text)))
    made.filters["breakable"] = prose.breakable
    made.filters["prose"] = prose.prose
    made.filters["scrub"] = scrub
    return made


def packed(figures: Sequence[Figure]) -> str:
    """What the page draws, as base64 of gzip of JSON; no NaN in it."""
    plots = {
        figure.key: {"plot": json.loads(figure.plot.to_json()), "data": figure.data}
        for figure in figures
        if figure.plot is not None
    }
    raw = json.dumps(plots, allow_nan=False, separators=(",", ":"))
    # mtime=0: the same numbers give the same page
    return base64.b64encode(gzip.compress(raw.encode("utf-8"), 9, mtime=0)).decode("ascii")
