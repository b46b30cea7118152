"""Blocks of transformers, shared by the families with the norm before and behind the branches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.accuracy.data import TEXT_LENGTH, TEXT_LETTERS


class Attention(nn.Module):
    """Attention of several heads, written out."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes along axis 1."""
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        if self.causal:
            ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(ahead, float("-inf"))
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention and a small network, each with a residual and a norm.

    Args:
        width: of the residual stream.
        before: the norm stands before the branch; behind the sum otherwise.
        causal: no place sees a later one.
        activation: of the small network.
    """

    def __init__(
        self, width: int, *, before: bool, causal: bool, activation: type[nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.before = before
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4, causal)
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        if self.before:
            x = x + self.attention(self.norm1(x))
            return x + self.network(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.network(x))


class LetterModel(nn.Module):
    """Predicts the next letter; the head may share the letters' embedding."""

    def __init__(self, width: int, blocks: list[nn.Module], *, norm: bool, tied: bool) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(TEXT_LETTERS), width)
        self.places = nn.Embedding(TEXT_LENGTH, width)
        nn.init.normal_(self.letters.weight, std=0.3)
        nn.init.normal_(self.places.weight, std=0.1)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, len(TEXT_LETTERS), bias=not tied)
        if tied:
            self.head.weight = self.letters.weight

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, length, letters]``."""
        hidden = self.letters(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class PatchModel(nn.Module):
    """Tells the class of an image from patches of ``patch`` x ``patch``."""

    def __init__(
        self,
        side: int,
        patch: int,
        width: int,
        outputs: int,
        blocks: list[nn.Module],
        *,
        norm: bool,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (side // patch) ** 2, width) * 0.1)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        hidden = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden).mean(1))
