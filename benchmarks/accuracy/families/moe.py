"""Mixtures of experts of which each sample uses one or two; some stay idle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates, supervised


class Mixture(nn.Module):
    """The ``used`` best of ``count`` experts, weighted by the router.

    Args:
        width: of input and output.
        count: experts.
        used: experts of a sample.
        tilt: added to the router's bias, growing over the experts, so that the last are idle.
    """

    def __init__(self, width: int, count: int, used: int, tilt: float = 0.0) -> None:
        super().__init__()
        self.used = used
        self.router = nn.Linear(width, count)
        with torch.no_grad():
            self.router.bias -= tilt * torch.arange(count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, width))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the mixture."""
        scores = self.router(x).softmax(-1)
        best, chosen = scores.topk(self.used, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]) * best[rows, places, None])
        return x + out


class Experts(nn.Module):
    """A stem, two mixtures, a head."""

    def __init__(self, data: Data, count: int, used: int, tilt: float) -> None:
        super().__init__()
        self.stem = nn.Linear(data.x[0].numel(), 40)
        self.act = nn.ReLU()
        self.mixtures = nn.ModuleList(Mixture(40, count, used, tilt) for _ in range(2))
        self.norm = nn.LayerNorm(40)
        self.head = nn.Linear(40, data.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        hidden = self.act(self.stem(x.flatten(1)))
        for mixture in self.mixtures:
            hidden = mixture(hidden)
        return self.head(self.norm(hidden))


def _build(variant: str, data: Data) -> Draft:
    count, used, tilt = {"top-2": (4, 2, 0.0), "top-1": (4, 1, 0.0), "idle": (6, 1, 3.0)}[variant]
    return supervised(Experts(data, count, used, tilt), data)


_TABLES = ("digits", "cancer", "diabetes", "wine")

MOE = Family(
    "moe", "reporting", {"top-2": _TABLES, "top-1": _TABLES, "idle": _TABLES}, rates(), _build
)
