"""A trace as one line a section."""

from __future__ import annotations

from gradscope.anatomy.facts import Anatomy
from gradscope.report import trace_view
from gradscope.report.clean import one_line
from gradscope.report.numbers import number, plural


def lines(anatomy: Anatomy) -> list[str]:
    """One line a section, without marks."""
    chain, update = anatomy.chain, anatomy.update
    made = [
        f"forward: {plural(len(anatomy.forward), 'layer')}, functions included",
        f"prediction: {anatomy.prediction.sentence}",
        f"loss: {anatomy.loss.operation} {number(anatomy.loss.value)}",
        f"chain rule: {number(chain.loss)} at the output, {number(chain.product)} at {chain.ends}",
        f"inputs: {anatomy.inputs.missing or _drivers(anatomy)}",
        f"update: loss {number(update.before)} -> {number(update.after)}, the slope promised "
        f"{number(update.predicted)}",
    ]
    return [one_line(line).replace("`", "") for line in made]


def _drivers(anatomy: Anatomy) -> str:
    found = anatomy.inputs.attributions[0]
    rows = trace_view.input_rows(found, 3)
    return f"{found.target} driven most by {', '.join(row[0] for row in rows)}"
