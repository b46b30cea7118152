"""Simple recurrent networks."""

from __future__ import annotations

from torch import nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates, supervised
from benchmarks.accuracy.families.recurrent import Cells, orthogonal, reading, rows, writing


def _build(variant: str, data: Data) -> Draft:
    size = data.x.shape[-1]
    if variant == "tanh":
        return reading(orthogonal(nn.RNN(size, 40, batch_first=True)), data)
    if variant == "relu":
        layer = nn.RNN(size, 40, nonlinearity="relu", batch_first=True)
        return reading(orthogonal(layer), data, rate=0.5)
    if variant == "stacked":
        return reading(nn.RNN(size, 32, num_layers=2, batch_first=True), data)
    if variant == "cells":
        model = Cells(orthogonal(nn.RNNCell(size, 40)), data.outputs)
        return supervised(model, data, lambda model, x: model(rows(x)))
    return writing(nn.RNN(32, 48, batch_first=True), data, rate=3.0)


RNN = Family(
    "rnn",
    "reporting",
    {
        "tanh": ("digits", "mnist"),
        "relu": ("digits",),
        "stacked": ("digits",),
        "cells": ("digits",),
        "text": ("text",),
    },
    rates(1.0, adam=5e-3, adamw=5e-3),
    _build,
)
