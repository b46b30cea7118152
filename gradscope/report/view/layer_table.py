"""The table of all layers: what every figure shows, as text that sorts and filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose import windows
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.report.clean import one_line
from gradscope.report.escape import scrub
from gradscope.report.view.cards import Card
from gradscope.report.view.layers import Cell, Layers
from gradscope.report.view.numerals import number, percent

_STATES = {
    Cell.NOT_RECORDED: "not recorded",
    Cell.FROZEN: "frozen",
    Cell.NONE: "no gradient",
    Cell.ZERO: "exactly zero",
    Cell.FINITE: "finite",
    Cell.NON_FINITE: "NaN or Inf",
}


@dataclass(frozen=True)
class NumberCell:
    """A number as text, with the value that a column sorts by ("" sorts last)."""

    text: str
    sort: str


@dataclass(frozen=True)
class LayerRow:
    """One layer; ``label`` is its name as a reader wants it."""

    name: str
    label: str
    type: str
    place: str
    weights: NumberCell
    gradient: NumberCell
    ratio: NumberCell
    zeros: NumberCell
    state: str
    findings: tuple[tuple[str, str, str], ...]
    """(severity, code, id of the card) of the findings about this layer."""


def layer_rows(diagnosis: Diagnosis, layers: Layers, found: tuple[Card, ...]) -> list[LayerRow]:
    """Rows in forward order; gradient and state are those of the last sampled step."""
    recording = diagnosis.recording
    updates = recording.updates
    recent = updates[updates["step"].isin(windows.last_window(recording, "updates"))]
    ratios = recent.groupby("parameter_id")["ratio"].median().to_dict()
    gradients = recording.gradients
    looked = gradients[gradients["looked_at"] > 0]
    sums = looked.groupby("parameter_id")[["zeros", "looked_at"]].sum()
    zero_counts, looked_at = sums["zeros"].to_dict(), sums["looked_at"].to_dict()
    findings = _findings(diagnosis, layers, found)
    rows = []
    for at, layer in enumerate(layers.layers):
        finite = layers.rms[at][np.isfinite(layers.rms[at])]
        total = sum(looked_at.get(p, 0) for p in layer.parameters)
        zeros = sum(zero_counts.get(p, 0) for p in layer.parameters)
        rows.append(
            LayerRow(
                name=layer.name,
                label=layer.label,
                type=layer.type,
                place=scrub(one_line(layer.place)),
                weights=NumberCell(f"{layer.count:,}", str(layer.count)),
                gradient=_cell(float(finite[-1]) if len(finite) else math.nan),
                ratio=_cell(float(ratios.get(layer.parameters[0], math.nan))),
                zeros=NumberCell(percent(zeros / total), f"{zeros / total:.6g}")
                if total
                else NumberCell("–", ""),
                state=_state(layers, at),
                findings=tuple(findings.get(at, ())),
            )
        )
    return rows


def _cell(value: float) -> NumberCell:
    return NumberCell(number(value), f"{value:.6g}" if math.isfinite(value) else "")


def _state(layers: Layers, row: int) -> str:
    cells = layers.cells[row]
    known = cells[cells != Cell.NOT_RECORDED]
    return _STATES[Cell(int(known[-1]))] if len(known) else _STATES[Cell.NOT_RECORDED]


def _findings(
    diagnosis: Diagnosis, layers: Layers, found: tuple[Card, ...]
) -> dict[int, list[tuple[str, str, str]]]:
    """What is found about each row that a finding names as cause or as reached."""
    by_row: dict[int, list[tuple[str, str, str]]] = {}
    for finding, card in zip(diagnosis.findings, found, strict=True):
        names = (*finding.modules, *finding.parameters, *finding.also)
        rows = {row for name in names if name and (row := layers.row_of(name)) is not None}
        for row in rows:
            by_row.setdefault(row, []).append((card.severity, card.code, card.id))
    return by_row
