"""LSTMs."""

from __future__ import annotations

from torch import nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates, supervised
from benchmarks.accuracy.families.recurrent import Cells, quarters, reading, rows, writing


def _build(variant: str, data: Data) -> Draft:
    if variant == "rows":
        return reading(nn.LSTM(data.x.shape[-1], 32, batch_first=True), data)
    if variant == "stacked":
        return reading(nn.LSTM(data.x.shape[-1], 24, num_layers=2, batch_first=True), data)
    if variant == "long":
        return reading(nn.LSTM(4, 32, batch_first=True), data, quarters)
    if variant == "cells":
        model = Cells(nn.LSTMCell(data.x.shape[-1], 32), data.outputs)
        return supervised(model, data, lambda model, x: model(rows(x)))
    return writing(nn.LSTM(32, 48, batch_first=True), data, rate=2.0)


LSTM = Family(
    "lstm",
    "tuning",
    {
        "rows": ("digits", "mnist"),
        "stacked": ("digits",),
        "long": ("digits",),
        "cells": ("digits",),
        "text": ("text",),
    },
    rates(3.0, sgd=1.0, momentum=0.2),
    _build,
)
