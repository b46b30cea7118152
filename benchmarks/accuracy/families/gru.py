"""GRUs."""

from __future__ import annotations

from torch import nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates
from benchmarks.accuracy.families.recurrent import orthogonal, quarters, reading, writing


def _build(variant: str, data: Data) -> Draft:
    if variant == "rows":
        return reading(nn.GRU(data.x.shape[-1], 32, batch_first=True), data)
    if variant == "two-ways":
        layer = nn.GRU(data.x.shape[-1], 24, batch_first=True, bidirectional=True)
        draft = reading(layer, data)
        draft.model.head = nn.Linear(48, data.outputs)
        return draft
    if variant == "long":
        return reading(orthogonal(nn.GRU(4, 32, batch_first=True)), data, quarters)
    return writing(nn.GRU(32, 48, batch_first=True), data)


GRU = Family(
    "gru",
    "reporting",
    {
        "rows": ("digits", "mnist"),
        "two-ways": ("digits",),
        "long": ("digits",),
        "text": ("text",),
    },
    rates(3.0, sgd=1.0, momentum=0.2),
    _build,
)
