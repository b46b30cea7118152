"""Letter models of embeddings with most rows seldom touched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import TEXT_LETTERS, Data
from benchmarks.accuracy.families.common import rates, supervised

_LETTERS = len(TEXT_LETTERS)


class Pairs(nn.Module):
    """The next letter from the last two: a table of all pairs, of which few ever come up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(_LETTERS, width)
        self.pairs = nn.Embedding(_LETTERS * _LETTERS, width)
        self.mix = nn.Sequential(nn.Linear(2 * width, 48), nn.ReLU(), nn.Linear(48, _LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, length, letters]``."""
        before = torch.cat([x[:, :1], x[:, :-1]], 1)
        hidden = torch.cat([self.letters(x), self.pairs(before * _LETTERS + x)], -1)
        return self.mix(hidden)


class Window(nn.Module):
    """The neural language model of Bengio et al. (2003) over four letters."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.letters = nn.Embedding(_LETTERS, width)
        self.hidden = nn.Linear(4 * width, 64)
        self.act = activation
        self.middle = nn.Linear(64, 48)
        self.act2 = type(activation)()
        self.head = nn.Linear(48, _LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, length, letters]``."""
        places = [torch.cat([x[:, :1].expand(-1, k), x[:, : x.shape[1] - k]], 1) for k in range(4)]
        hidden = self.act(self.hidden(torch.cat([self.letters(p) for p in places], -1)))
        return self.head(self.act2(self.middle(hidden)))


def _build(variant: str, data: Data) -> Draft:
    if variant == "pairs":
        return supervised(Pairs(24), data)
    return supervised(Window(24, nn.Tanh() if variant == "window-tanh" else nn.ReLU()), data)


EMBEDDING = Family(
    "embedding",
    "tuning",
    {"pairs": ("text",), "window": ("text",), "window-tanh": ("text",)},
    rates(1.0, sgd=1.0, momentum=0.1),
    _build,
)
