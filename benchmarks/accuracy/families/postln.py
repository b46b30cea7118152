"""Transformers with the norm behind each branch, and encoders of torch.nn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import TEXT_LETTERS, Data
from benchmarks.accuracy.families.common import supervised
from benchmarks.accuracy.families.transformer import Block, LetterModel, PatchModel

_WIDTH = 32


class Encoder(nn.Module):
    """torch.nn's own encoder over rows of an image, with a class token."""

    def __init__(self, size: int, length: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(size, _WIDTH)
        self.token = nn.Parameter(torch.randn(1, 1, _WIDTH) * 0.1)
        self.places = nn.Parameter(torch.randn(1, length + 1, _WIDTH) * 0.1)
        layer = nn.TransformerEncoderLayer(_WIDTH, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        hidden = self.embed(x.flatten(1, 2))
        hidden = torch.cat([self.token.expand(len(x), -1, -1), hidden], 1) + self.places
        return self.head(self.encoder(hidden)[:, 0])


class Masked(nn.Module):
    """A bidirectional encoder of letters whose pooled output tells which letter follows."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Block(_WIDTH, before=False, causal=True) for _ in range(2)]
        self.body = LetterModel(_WIDTH, blocks, norm=False, tied=False)
        self.body.head = nn.Identity()
        self.dense = nn.Linear(_WIDTH, _WIDTH)
        self.act = nn.Tanh()
        self.head = nn.Linear(_WIDTH, len(TEXT_LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, length, letters]``."""
        return self.head(self.act(self.dense(self.body(x))))


def _build(variant: str, data: Data) -> Draft:
    if variant == "encoder":
        return supervised(Encoder(data.x.shape[-1], data.x.shape[-2], data.outputs), data)
    if variant == "pooled":
        return supervised(Masked(), data)
    blocks = [Block(_WIDTH, before=False, causal=variant == "letters") for _ in range(2)]
    if variant == "letters":
        return supervised(LetterModel(_WIDTH, blocks, norm=False, tied=False), data)
    model = PatchModel(data.x.shape[-1], 2, _WIDTH, data.outputs, blocks, norm=False)
    return supervised(model, data)


POSTLN = Family(
    "postln",
    "reporting",
    {
        "letters": ("text",),
        "pooled": ("text",),
        "patches": ("digits",),
        "encoder": ("digits", "mnist"),
    },
    {"adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3},
    _build,
)
