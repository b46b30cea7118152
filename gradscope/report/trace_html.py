"""A trace as one HTML file: its text, tables and pictures stand in the markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

import gradscope
from gradscope.anatomy.facts import Anatomy, Attribution
from gradscope.anatomy.shown import strongest
from gradscope.report import page_assets, page_parts, pixels, theme, trace_checks, trace_json
from gradscope.report import trace_view as view
from gradscope.report.clean import one_line
from gradscope.report.escape import script_json, scrub, scrub_all
from gradscope.report.trace_flow import flow
from gradscope.report.view.numerals import number, percent

BARS = 24
"""Inputs that get a bar; the JSON in the page holds all that were kept."""
PIXELS = 220
"""Width of a picture on the page."""


def render(anatomy: Anatomy) -> str:
    """The page as text; it reads without a script and needs nothing else."""
    made = page_parts.environment().get_template("trace.html.j2")
    good = all(identity.holds for identity in anatomy.identities)
    target = scrub(one_line(anatomy.target))
    sentence = one_line(anatomy.prediction.sentence).replace("`", "")
    return made.render(
        title=f"{target}: one step taken apart. {sentence}",
        version=gradscope.__version__, plotly=page_assets.PLOTLY_VERSION,
        css=Markup(theme.style_sheet() + page_assets.styles()),
        boot=Markup(page_assets.text(page_assets.BOOT)), script=Markup(page_assets.scripts()),
        bundle="", payload="", data=Markup(script_json(scrub_all(trace_json.document(anatomy)))),
        sections=view.SECTIONS,
        pill={
            "kind": "passed" if good else "critical",
            "text": "all checks hold" if good else "a check fails",
            "target": "checked",
        },
        facts=view.facts(anatomy), **context(anatomy),
    ) + "\n"  # fmt: skip


def context(anatomy: Anatomy) -> dict[str, Any]:
    """What ``trace_parts.html.j2`` needs: the trace, and its numbers as texts and bars."""
    small, _, _ = view.update_tables(anatomy)
    sentences, tables = view.sections(anatomy)[1].sentences, view.sections(anatomy)[1].tables
    classes = _classes(anatomy)
    return {
        "trace": anatomy,
        "view": {
            "what": view.WHAT,
            "forward": _forward(anatomy),
            "prediction": {
                "sentences": sentences,
                "classes": classes,
                "outputs": tables[0] if tables and not classes else None,
            },
            "loss": _loss(anatomy),
            "chain": _chain(anatomy),
            "line": flow(anatomy.chain),
            "inputs": [_driver(found) for found in anatomy.inputs.attributions],
            "small": small,
            "moved": _moved(anatomy),
            "weights": _weights(anatomy),
            "checked": [
                {
                    "name": i.name, "holds": i.holds, "sentence": trace_checks.sentence(i),
                    "meaning": i.meaning,
                }
                for i in anatomy.identities
            ],
        },
    }  # fmt: skip


def _part(value: float | None) -> dict[str, Any]:
    known = value is not None and not math.isnan(value)
    return {"text": percent(value), "part": round(100 * value, 1) if known and value else 0}


def _forward(anatomy: Anatomy) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name, "type": row.type, "shape": view.shape(row.shape),
            "mean": number(row.mean), "std": number(row.std), "zeros": _part(row.zeros),
            "flat": _part(row.flat), "bad": f"{row.nonfinite} NaN or Inf" if row.nonfinite else "",
        }
        for row in anatomy.forward
    ]  # fmt: skip


def _classes(anatomy: Anatomy) -> list[dict[str, Any]]:
    return [
        {
            "label": c.label, "score": number(c.score), "probability": _part(c.probability),
            "true": c.true, "predicted": c.predicted,
        }
        for c in anatomy.prediction.classes
    ]  # fmt: skip


def _loss(anatomy: Anatomy) -> view.Table:
    tables = view.sections(anatomy)[2].tables
    return tables[0] if tables else view.Table((), ())


def _chain(anatomy: Anatomy) -> list[dict[str, Any]]:
    logs = [abs(math.log10(f.gain)) for f in anatomy.chain.factors if f.gain]
    reach = max([*logs, 0.5])
    return [
        {
            "label": f.label, "type": f.type, "kind": f.kind, "kind_word": view.KINDS[f.kind],
            "gain": view.times(f.gain), "product": number(f.product), "inside": view.inside(f),
            "part": round(100 * math.log10(f.gain) / reach, 1) if f.gain else -100 * (f.gain == 0),
        }
        for f in anatomy.chain.factors
    ]  # fmt: skip


def _scaled(values: Sequence[float]) -> list[float]:
    top = max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0
    return [0.0 if not math.isfinite(v) else v / top for v in values]


def _driver(found: Attribution) -> dict[str, Any]:
    strength = found.integrated or found.product
    parts = _scaled(strength)
    bars = []
    if found.form != "picture":
        order = strongest(strength, BARS)
        if found.form == "sequence":
            # a sequence is read in its own order
            order = sorted(order)
        rows = dict(zip(strongest(strength, BARS), view.input_rows(found, BARS), strict=True))
        for at in order:
            name, value, slope, product, integrated = rows[at]
            bars.append(
                {
                    "name": name, "value": value, "slope": slope, "product": product,
                    "integrated": integrated, "part": round(100 * parts[at], 1),
                }
            )  # fmt: skip
    return {
        "target": found.target, "score": number(found.score), "words": found.words,
        "pictures": _pictures(found) if found.form == "picture" else [],
        "tokens": _tokens(found, parts) if found.form == "tokens" else [],
        "measure": "its integrated gradient" if found.integrated else "slope × input",
        "bars": bars, "count": len(strength), "left_out": len(strength) > len(bars),
        "integrated": bool(found.integrated), "has_values": bool(found.values),
    }  # fmt: skip


def _pictures(found: Attribution) -> list[dict[str, Any]]:
    size = found.size
    own = pixels.coloured(found.colours, size) if found.colours else pixels.grey(found.values, size)
    made = [
        ("The input", own, "The input as the model got it"),
        ("Slope", pixels.signed(found.gradient, size), "Slope of the score by each pixel"),
        ("Slope × input", pixels.signed(found.product, size), "Slope times input of each pixel"),
    ]
    if found.integrated:
        uri = pixels.signed(found.integrated, size)
        made.append(("Integrated gradients", uri, "Integrated gradient of each pixel"))
    height = round(PIXELS * size[0] / size[1])
    return [
        {"title": title, "uri": uri, "alt": alt, "width": PIXELS, "height": height}
        for title, uri, alt in made
    ]


def _tokens(found: Attribution, parts: Sequence[float]) -> list[dict[str, Any]]:
    values = found.integrated or found.product
    colours = {True: f"rgb{pixels.FOR}", False: f"rgb{pixels.AGAINST}"}
    return [
        {
            "name": name, "value": number(value), "colour": colours[part >= 0],
            "strength": round(abs(part) ** 0.5, 2),
        }
        for name, value, part in zip(found.names, values, parts, strict=False)
    ]  # fmt: skip


def _moved(anatomy: Anatomy) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name, "before": f"{row.before:.5g}", "after": f"{row.after:.5g}",
            "change": ("+" if row.after > row.before else "") + number(row.after - row.before),
            "why": row.why,
        }
        for row in anatomy.update.moved
    ]  # fmt: skip


def _weights(anatomy: Anatomy) -> list[dict[str, Any]]:
    parts = _scaled([row.progress for row in anatomy.update.weights])
    return [
        {
            "name": row.name, "shape": view.shape(row.shape), "state": row.state,
            "gradient": number(row.gradient), "step": number(row.step),
            "relative": number(row.relative), "progress": number(row.progress),
            "part": round(100 * max(part, 0.0), 1),
        }
        for row, part in zip(anatomy.update.weights, parts, strict=True)
    ]  # fmt: skip
