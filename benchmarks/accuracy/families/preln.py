"""Transformers with the norm before each branch."""

from __future__ import annotations

from torch import nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import supervised
from benchmarks.accuracy.families.transformer import Block, LetterModel, PatchModel

_WIDTH = 32


def _blocks(depth: int, causal: bool, activation: type[nn.Module] = nn.GELU) -> list[nn.Module]:
    return [Block(_WIDTH, before=True, causal=causal, activation=activation) for _ in range(depth)]


def _build(variant: str, data: Data) -> Draft:
    if variant in ("letters", "tied"):
        model = LetterModel(_WIDTH, _blocks(2, True), norm=True, tied=variant == "tied")
        return supervised(model, data)
    depth, activation = {"patches": (2, nn.GELU), "deep": (4, nn.ReLU)}[variant]
    model = PatchModel(
        data.x.shape[-1], 2, _WIDTH, data.outputs, _blocks(depth, False, activation), norm=True
    )
    return supervised(model, data)


PRELN = Family(
    "preln",
    "tuning",
    {"letters": ("text",), "tied": ("text",), "patches": ("digits",), "deep": ("digits",)},
    {"adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3},
    _build,
)
