"""Recurrent networks that read images row by row, pixels in groups, or text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft
from benchmarks.accuracy.data import TEXT_LETTERS, Data
from benchmarks.accuracy.families.common import supervised


def rows(x: Tensor) -> Tensor:
    """Images ``[n, 1, h, w]`` as sequences of their rows ``[n, h, w]``."""
    return x.flatten(1, 2)


def quarters(x: Tensor) -> Tensor:
    """Images as sequences of four pixels at a time ``[n, h w / 4, 4]``."""
    return x.reshape(len(x), -1, 4)


class Reader(nn.Module):
    """A recurrent layer over a sequence, then a linear head on its last output."""

    def __init__(self, layer: nn.Module, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        return self.head(self.layer(x)[0][:, -1])


class Writer(nn.Module):
    """Predicts the next letter at every place of a text."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(TEXT_LETTERS), width)
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, len(TEXT_LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, length, letters]``."""
        return self.head(self.layer(self.letters(x))[0])


class Cells(nn.Module):
    """A loop over a cell, as research code writes it."""

    def __init__(self, cell: nn.Module, outputs: int) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        state = None
        for place in range(x.shape[1]):
            state = self.cell(x[:, place], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def reading(layer: nn.Module, data: Data, view=rows, *, rate: float = 1.0) -> Draft:
    """A draft of a reader of images."""
    model = Reader(layer, data.outputs)
    return supervised(model, data, lambda model, x: model(view(x)), rate=rate)


def writing(layer: nn.Module, data: Data, *, rate: float = 1.0) -> Draft:
    """A draft of a predictor of letters."""
    return supervised(Writer(layer, layer.input_size), data, rate=rate)


def orthogonal(layer: nn.Module) -> nn.Module:
    """Recurrent weights that keep a signal's size through time."""
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.split(layer.hidden_size):
                    nn.init.orthogonal_(gate)
    return layer
