"""Networks with a place for an operation, and the trainings around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH = 8


class Place(nn.Module):
    """A layer that applies an operation, or nothing."""

    def __init__(self, apply: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        super().__init__()
        self.apply_it = apply
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, flag: Tensor) -> Tensor:
        """Features and flags to features."""
        h = torch.tanh(self.fc(h))
        return h if self.apply_it is None else self.apply_it(h, flag)


class Attention(nn.Module):
    """Mixes features with a learnt attention over them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, D]``."""
        scores = self.query(h)[:, :, None] * self.key(h)[:, None, :] / WIDTH**0.5
        return h + (scores.softmax(2) @ h[:, :, None]).squeeze(2)


class Convolution(nn.Module):
    """A small convolution over the features, with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, D]``."""
        return h + self.out(self.norm(self.conv(h[:, None])).relu().flatten(1))


class Dense(nn.Module):
    """Two linear layers with dropout and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, WIDTH)
        )

    def forward(self, h: Tensor) -> Tensor:
        """``[B, D]`` to ``[B, D]``."""
        return h + self.body(h)


HOSTS: dict[str, type[nn.Module]] = {
    "dense": Dense, "convolution": Convolution, "attention": Attention,
}  # fmt: skip
PLACES = ("first", "middle", "last", "loss")


class Net(nn.Module):
    """Three blocks, each with a place behind it; the operation stands in one of them.

    The flag comes in beside the features and is no feature itself.
    """

    def __init__(
        self, host: str, place: str, apply: Callable[[Tensor, Tensor], Tensor], *, saves: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([HOSTS[host]() for _ in range(3)])
        where = {"first": 0, "middle": 1, "last": 2}.get(place, -1)
        self.places = nn.ModuleList([Place(apply if i == where else None) for i in range(3)])
        self.head = nn.Linear(WIDTH, WIDTH)
        self.saves = saves

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        """``[B, D]`` and ``[B, 1]`` to ``[B, D]``."""
        for block, place in zip(self.blocks, self.places, strict=True):
            if self.saves:
                x = checkpoint(lambda h, b=block, p=place: p(b(h), flag), x, use_reentrant=False)
            else:
                x = place(block(x), flag)
        return self.head(x.clamp(-1e4, 1e4))


def culprit(place: str) -> str:
    """Qualified name of the module in which the operation stands; "" for the loss code."""
    return {"first": "places.0", "middle": "places.1", "last": "places.2"}.get(place, "")


def line_of(apply: Any) -> int:
    """Line on which an operation of one line is written."""
    return int(apply.__code__.co_firstlineno)
