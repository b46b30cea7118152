"""A trace as sections of sentences and tables, which every text format writes in its own way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.anatomy.facts import Anatomy, Attribution, Factor
from gradscope.anatomy.shown import strongest
from gradscope.report.trace_checks import sentence
from gradscope.report.view.numerals import number, percent

SECTIONS = (
    ("forward", "Forward"),
    ("prediction", "Prediction"),
    ("loss", "Loss"),
    ("chain", "Chain rule"),
    ("inputs", "Inputs"),
    ("update", "Update"),
)
"""Key and name of the sections, in order."""
STRONGEST = 12
"""Inputs that a text lists; the page shows all that the trace holds."""
WHAT = {
    "forward": "What goes in is turned into an answer, layer by layer. Zeros are exact zeros; flat "
    "is the share of an activation's elements on which its slope is next to nothing, where no "
    "gradient passes on the way back.",
    "prediction": "What the model answered for this sample.",
    "loss": "How wrong that is as one number, and how it changes with each output: the gradient "
    "that goes back.",
    "chain": "Backpropagation multiplies that gradient by one factor at each layer, from the loss "
    "back to the input. A factor below 1 shrinks it, one above 1 lets it grow; their product is "
    "what arrives.",
    "inputs": "Which inputs drove the score: its slope by each input, and that slope times the "
    "input.",
    "update": "What the optimizer changed, and whether the loss fell as the slope said.",
}
"""One sentence on what each section shows, for a reader who meets it for the first time."""
KINDS = {
    "weight": "weights",
    "activation": "activation",
    "other": "other",
    "block": "block",
    "loss": "loss",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts: headings, and rows of as many cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, its sentences, its tables."""

    key: str
    title: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...] = ()


def sections(anatomy: Anatomy) -> list[Section]:
    """The six sections, and what was checked."""
    made = {
        "forward": ((), (forward_table(anatomy),)),
        "prediction": _prediction(anatomy),
        "loss": _loss(anatomy),
        "chain": ((*anatomy.chain.words, *anatomy.chain.notes), (chain_table(anatomy),)),
        "inputs": _inputs(anatomy),
        "update": _update(anatomy),
    }
    found = [Section(key, title, *made[key]) for key, title in SECTIONS]
    checked = tuple(f"{i.name}: {sentence(i)}. {i.meaning}" for i in anatomy.identities)
    return [*found, Section("checks", "Checked against theory", checked)]


def shape(sizes: Sequence[int]) -> str:
    """``1 × 8 × 8``; a dash without sizes."""
    return " × ".join(map(str, sizes)) or "–"


def forward_table(anatomy: Anatomy) -> Table:
    """One row a layer."""
    rows: list[tuple[str, ...]] = [
        (
            row.name, row.type, shape(row.shape), number(row.mean), number(row.std),
            percent(row.zeros), percent(row.flat),
        )
        for row in anatomy.forward
    ]  # fmt: skip
    columns: tuple[str, ...] = ("layer", "type", "output", "mean", "spread", "zeros", "flat")
    if any(row.nonfinite for row in anatomy.forward):
        columns = (*columns, "not finite")
        rows = [
            (*cells, str(row.nonfinite or ""))
            for cells, row in zip(rows, anatomy.forward, strict=True)
        ]
    return Table(columns, tuple(rows))


def times(gain: float | None) -> str:
    """A factor with its sign: ``×0.25``; a dash where there is none."""
    return "–" if gain is None else f"×{number(gain)}"


def chain_table(anatomy: Anatomy) -> Table:
    """One row a factor, from the loss to the input."""
    rows = [
        (f.label, f.type, KINDS[f.kind], times(f.gain), number(f.product))
        for f in anatomy.chain.factors
    ]
    heads = ("from the loss back", "type", "made of", "factor", "gradient so far")
    return Table(heads, tuple(rows))


def inside(factor: Factor) -> str:
    """What is inside a block, in a sentence; "" where nothing is known."""
    parts = []
    if factor.ways:
        parts.append("by way: " + ", ".join(f"{w.label} {times(w.gain)}" for w in factor.ways))
    if factor.inside:
        listed = ", ".join(f"{w.label} {times(w.gain)}" for w in factor.inside)
        parts.append("layers inside: " + listed)
    return "; ".join(parts)


def _prediction(anatomy: Anatomy) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    found = anatomy.prediction
    said = [found.sentence]
    if found.position:
        said.append(f"Shown is {found.position}.")
    if found.more:
        said.append(f"{found.more} more are not listed.")
    tables = []
    if found.classes:
        rows = [
            (
                c.label, number(c.score), percent(c.probability),
                "the answer" * c.predicted + " and " * (c.predicted and c.true)
                + "the truth" * c.true,
            )
            for c in found.classes
        ]  # fmt: skip
        tables.append(Table(("class", "score", "probability", ""), tuple(rows)))
    if found.values:
        values = [
            (v.label, number(v.output), number(v.target), number(abs(v.output - v.target)))
            for v in found.values
        ]
        tables.append(Table(("output", "value", "target", "distance"), tuple(values)))
    return tuple(said), tuple(tables)


def _loss(anatomy: Anatomy) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    rows = [(s.label, number(s.derivative), number(s.formula)) for s in anatomy.loss.slopes]
    formula = anatomy.loss.formula or "by formula"
    table = Table(("output", "derivative of the loss", formula), tuple(rows))
    return anatomy.loss.words, (table,) if rows else ()


def input_rows(found: Attribution, most: int) -> list[tuple[str, str, str, str, str]]:
    """The inputs that drove a score most: name, value, slope, slope × input, integrated."""
    size = found.integrated or found.product
    columns = found.size[1]
    rows = []
    for at in strongest(size, most):
        name = found.names[at] if found.names else f"row {at // columns}, column {at % columns}"
        if found.form == "tokens":
            # one token may stand at several places
            name = f"{name} at {at}"
        rows.append(
            (
                name,
                number(found.values[at]) if found.values else "–",
                number(found.gradient[at]) if at < len(found.gradient) else "–",
                number(found.product[at]),
                number(found.integrated[at]) if found.integrated else "–",
            )
        )
    return rows


def _inputs(anatomy: Anatomy) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    if anatomy.inputs.missing:
        return (anatomy.inputs.missing,), ()
    said: list[str] = []
    tables = []
    for found in anatomy.inputs.attributions:
        said.append(f"What drove {found.target} ({number(found.score)}):")
        said.extend(found.words)
        heads = ("input", "value", "slope", "slope × input", "integrated")
        kept = len(heads) if found.integrated else len(heads) - 1
        rows = input_rows(found, STRONGEST)
        tables.append(Table(heads[:kept], tuple(row[:kept] for row in rows)))
    return tuple(said), tuple(tables)


def share(part: float) -> str:
    """A part of a step: ``whole``, ``1/2``, ``1/16,384``."""
    return "the whole step" if part == 1 else f"1/{round(1 / part):,} of it"


def update_tables(anatomy: Anatomy) -> tuple[Table, Table, Table]:
    """The step in parts, the weights one by one, and the tensors."""
    found = anatomy.update
    small = [
        (share(s.share), number(s.predicted), number(s.actual), number(s.miss)) for s in found.small
    ]
    moved = [
        (m.name, number(m.before), number(m.after - m.before), number(m.gradient), m.why)
        for m in found.moved
    ]
    tensors = [
        (
            w.name, shape(w.shape), w.state, number(w.gradient), number(w.step),
            number(w.relative), number(w.progress),
        )
        for w in found.weights
    ]  # fmt: skip
    return (
        Table(("step", "the slope promised", "the loss changed", "miss"), tuple(small)),
        Table(("weight", "before", "change", "gradient", "why"), tuple(moved)),
        Table(
            ("tensor", "shape", "state", "gradient", "step", "step / weight", "loss it buys"),
            tuple(tensors),
        ),
    )


def _update(anatomy: Anatomy) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    found = anatomy.update
    said = (f"{found.optimizer}. {found.rule}", *found.words)
    return said, tuple(table for table in update_tables(anatomy) if table.rows)


def facts(anatomy: Anatomy) -> list[tuple[str, str]]:
    """What was traced, as terms and values."""
    change = anatomy.update.after - anatomy.update.before
    inner = [f for f in anatomy.chain.factors if f.kind != "loss"]
    top = anatomy.chain.loss if inner else math.nan
    return [
        ("Model", anatomy.model),
        ("Sample", anatomy.sample),
        ("Mode", anatomy.mode),
        ("Trained before", f"{anatomy.steps} steps" if anatomy.steps else "not at all"),
        ("Loss", f"{number(anatomy.update.before)} → {number(anatomy.update.after)} "
                 f"({'+' if change > 0 else ''}{number(change)})"),
        ("Gradient", f"{number(top)} at the output, {number(anatomy.chain.product)} at "
                     f"{anatomy.chain.ends}"),
        ("Optimizer", anatomy.update.optimizer),
    ]  # fmt: skip
