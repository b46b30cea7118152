"""Units: how many units of each activation are dead, nearly flat or live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from gradscope.diagnose import windows
from gradscope.diagnose.unit_owner import unit_owner
from gradscope.diagnose.unit_window import unit_windows
from gradscope.recording.facts import Activation, Role
from gradscope.recording.reader import Recording
from gradscope.report.clean import one_line
from gradscope.report.figures.figure import (
    Figure,
    NumberTable,
    Rows,
    Swatch,
    blank,
    row_axis,
)
from gradscope.report.numbers import plural
from gradscope.report.theme import colour
from gradscope.report.view.layers import labels_of
from gradscope.report.view.numerals import ABSENT, number, percent

FLAT = 0.05
"""Mean slope, as a share of the activation's largest, below which a unit passes next to nothing
back; the same limit at which the observer calls a unit active."""
_HELP = (
    "Each bar is all units (channels) of one layer, as the activation behind it sees them over the "
    "last sampled steps: “fc2 → relu” are the units of fc2 behind their relu. A dead unit was "
    "never active in any batch: no gradient passes it, so it cannot come back by itself.",
    "A flat unit passes less than 5 % of the gradient on average over batch and positions: "
    "saturated, in a sigmoid or tanh. A live one passes more.",
)
_PARTS = (
    ("dead", "series-2", "x", "dead: never active"),
    ("flat", "series-4", "/", "flat: slope below 5 %"),
    ("live", "series-1", "", "live"),
)


@dataclass(frozen=True)
class _Units:
    name: str
    reader: str
    layer: str
    activation: str
    place: str
    units: int
    dead: int
    flat: int
    slope: float
    batches: int

    @property
    def label(self) -> str:
        return f"{self.layer} → {self.activation}" if self.layer else self.activation

    @property
    def live(self) -> int:
        return self.units - self.dead - self.flat


def units_figure(recording: Recording, marked: frozenset[str]) -> Figure:
    """Stacked shares of each activation with a dead or flat unit, in call order."""
    found = _states(recording)
    if not found:
        return Figure(
            "units", "Dead and flat units", "No activation's units were recorded in this run."
        )
    table = NumberTable(
        ("layer", "activation", "units", "dead", "flat", "mean slope", "batches"),
        tuple(
            (item.layer or ABSENT, item.place, f"{item.units:,}", f"{item.dead:,}",
             f"{item.flat:,}", percent(item.slope), f"{item.batches:,}")
            for item in found
        ),
    )  # fmt: skip
    reading = _reading(found)
    found = [item for item in found if item.dead or item.flat]
    if not found:
        # a page of full bars would say nothing that the sentence does not
        return Figure("units", "Dead and flat units", reading, _HELP, table)
    # a finding may name the activation where the row stands for the layer
    marked |= {item.name for item in found if item.reader in marked}
    rows = Rows([item.name for item in found], [item.label for item in found], marked)
    figure = blank(rows.height + 70)
    for part, shade, pattern, label in _PARTS:
        shares = [getattr(item, part) / item.units for item in found]
        if not any(shares):
            continue
        figure.add_trace(
            go.Bar(
                x=[round(share, 4) for share in shares],
                y=list(range(len(found))),
                orientation="h",
                name=label,
                width=0.72,
                marker={
                    "color": colour(shade),
                    "line": {"width": 0},
                    "pattern": {"shape": pattern, "fgcolor": colour("surface"), "size": 6,
                                "solidity": 0.25, "fillmode": "overlay"},
                },
                text=[f"{getattr(item, part):,} of {plural(item.units, 'unit')}" for item in found],
                textposition="none",
                hovertemplate="%{text}<extra>" + part + "</extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_xaxes(
        title_text="share of the units",
        range=[0, 1],
        tickformat=".0%",
        tickvals=[0, 0.25, 0.5, 0.75, 1],
    )
    row_axis(figure, rows)
    return Figure(
        key="units",
        title="Dead and flat units",
        reading=reading,
        help=_HELP,
        table=table,
        plot=figure,
        legend=tuple(
            Swatch(shade, label, glyph={"x": "crossed", "/": "hatched"}.get(pattern, ""))
            for part, shade, pattern, label in _PARTS
            if any(getattr(item, part) for item in found)
        ),
        data=rows.data,
    )


def _states(recording: Recording) -> list[_Units]:
    frame = recording.units
    window = windows.last_window(recording, "units")
    frame = frame[frame["step"].isin(window)]
    dead = {(w.module_id, w.activation): w for w in unit_windows(recording)}
    labels = labels_of(recording)
    modules = recording.modules
    kinds = {one_line(str(n)): one_line(str(t)) for n, t in zip(modules["name"], modules["type"],
                                                                strict=True)}  # fmt: skip
    order = recording.modules["order"].to_dict()
    found: list[tuple[float, _Units]] = []
    for (module, role, kind), rows in frame.groupby(["module_id", "role", "activation"]):
        rows = rows[rows["looked_at"] == rows["looked_at"].iloc[-1]]
        slopes = np.array([recording.unit_states(int(row))[1] for row in rows.index])
        known = dead.get((int(module), Activation(int(kind))))
        gone = known.dead if known else 0
        # NaN where slopes were not recorded: such a unit is not called flat
        flat = int((slopes.mean(axis=0) < FLAT).sum())
        name = one_line(recording.module_names.get(int(module), "")) or "the model"
        owner = unit_owner(recording, int(module))
        layer = one_line(owner or "")
        function = Activation(int(kind)).name.lower()
        item = _Units(
            # the row stands for the layer whose units they are, also where it is clicked
            name=layer or name,
            reader=name,
            layer=labels.get(layer, layer) or ("" if owner is None else "the model"),
            activation=kinds.get(name, function) if role != Role.INPUT else function,
            place=labels.get(name, name) if role != Role.INPUT else f"{function}, a function",
            units=int(rows["looked_at"].iloc[-1]),
            dead=gone,
            flat=max(0, flat - gone),
            slope=float(rows["slope"].mean()),
            batches=len(rows),
        )
        place = order.get(int(module))
        found.append((float("inf") if place is None or place != place else float(place), item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0]) if item.units]


def _reading(found: list[_Units]) -> str:
    units = sum(item.units for item in found)
    dead, flat = sum(item.dead for item in found), sum(item.flat for item in found)
    if not dead and not flat:
        return f"All {units:,} units behind {plural(len(found), 'activation')} are live."
    worst = max(found, key=lambda item: (item.dead + item.flat) / item.units)
    whose = f"{worst.layer} behind its {worst.activation}" if worst.layer else worst.activation
    return (
        f"{dead:,} of {plural(units, 'unit')} are dead and {flat:,} flat; most in {whose}, "
        f"where {percent((worst.dead + worst.flat) / worst.units)} of the units pass next to "
        f"nothing back (mean slope {number(worst.slope)} of the largest)."
    )
