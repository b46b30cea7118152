"""Adapters and low-rank updates on a frozen network that knows another task."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data, load
from benchmarks.accuracy.families.common import rates, supervised
from benchmarks.accuracy.families.mlp import mlp


class LowRank(nn.Module):
    """A frozen map and a trained product of two thin ones, of which the second starts at zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen map's output and the update's."""
        return self.base(x) + 2 * self.up(self.down(x))


class Adapter(nn.Module):
    """A frozen map and a small residual network behind it, which starts as nothing."""

    def __init__(self, base: nn.Linear, width: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        size = base.out_features
        self.down, self.act, self.up = nn.Linear(size, width), nn.GELU(), nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen map's output, corrected."""
        hidden = self.base(x)
        return hidden + self.up(self.act(self.down(hidden)))


@cache
def _pretrained() -> dict[str, Tensor]:
    """A network that tells digits from turned images: related to the task, but not the task."""
    data = load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = mlp(data, 3, nn.ReLU)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(11)
        for _ in range(300):
            picked = torch.randint(len(data.x), (64,), generator=generator)
            optimizer.zero_grad()
            turned = data.x[picked].transpose(2, 3)
            functional.cross_entropy(model(turned), data.y[picked]).backward()
            optimizer.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


def _build(variant: str, data: Data) -> Draft:
    model = mlp(data, 3, nn.ReLU)
    model.load_state_dict(_pretrained())
    model.requires_grad_(False)
    for place in (1, 3, 5):
        model[place] = (
            Adapter(model[place], 8) if variant == "adapter" else LowRank(model[place], 4)
        )
    if variant == "low-rank-head":
        model[7] = nn.Linear(48, data.outputs)
    return supervised(model, data)


ADAPTERS = Family(
    "adapters",
    "tuning",
    {"low-rank": ("digits",), "low-rank-head": ("digits",), "adapter": ("digits",)},
    rates(1.0, adam=5e-3, adamw=5e-3),
    _build,
)
