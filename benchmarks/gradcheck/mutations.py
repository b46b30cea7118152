"""Random faults at random places of random nets: how small a fault is found, and named.

A fault multiplies the gradient that a module sends back to its input, or that a parameter gets, by
``1 + size``: everywhere, on some elements, or on one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from benchmarks.gradcheck.case import Block, Net

SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SPREADS = ("all", "some", "one")


class Multiply(Function):
    """The identity, with a gradient that is multiplied elementwise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return grad * factor.to(grad.dtype), None


@dataclass(frozen=True)
class Mutation:
    """A net with one planted fault.

    Attributes:
        model, args: the net.
        culprit: name of the module at fault; None where nothing was planted.
        size, spread: of the fault.
        share: relative size of the fault in the module's own gradient, measured.
    """

    model: nn.Module
    args: tuple[Any, ...]
    culprit: str | None
    size: float
    spread: str
    share: float = 0.0


class Mutated(nn.Module):
    """A module whose input's gradient is multiplied."""

    def __init__(self, inner: nn.Module, size: float, spread: str, chance: random.Random) -> None:
        super().__init__()
        self.inner = inner
        self._what = size, spread, chance.randrange(2**31)

    def forward(self, x: Tensor) -> Tensor:
        size, spread, seed = self._what
        factor = 1 + size * mask(x.numel(), spread, seed).reshape(x.shape)
        return self.inner.forward(Multiply.apply(x, factor))


def mask(count: int, spread: str, seed: int) -> Tensor:
    """1 where the fault is."""
    generator = torch.Generator().manual_seed(seed)
    if spread == "all":
        return torch.ones(count, dtype=torch.float64)
    if spread == "some":
        return (torch.rand(count, generator=generator) < 0.3).to(torch.float64)
    chosen = torch.zeros(count, dtype=torch.float64)
    chosen[int(torch.randint(count, (), generator=generator))] = 1
    return chosen


def build(number: int, size: float, spread: str) -> Mutation:
    """Random net number ``number`` with a fault; without one where ``size`` is 0."""
    chance = random.Random(f"{number}/{size}/{spread}")
    torch.manual_seed(number)
    width, depth = chance.choice((4, 8, 16)), chance.choice((1, 2, 3))
    act = chance.choice((nn.GELU, nn.Tanh, nn.SiLU, nn.Softplus, nn.ELU))
    if chance.random() < 0.5:
        model: nn.Module = Net([Block(width, act()) for _ in range(depth)], width)
    else:
        layers: list[nn.Module] = []
        for _ in range(depth + 1):
            norm = chance.choice((nn.BatchNorm1d, nn.LayerNorm, None))
            layers += [nn.Linear(width, width), *([norm(width)] if norm else []), act()]
        model = nn.Sequential(*layers)
    args = (torch.randn(chance.choice((4, 32)), width),)
    if not size:
        return Mutation(model, args, None, 0.0, spread)
    places = [n for n, m in model.named_modules() if n and not list(m.children())]
    name = chance.choice(places)
    above, _, last = name.rpartition(".")
    holder = model.get_submodule(above)
    mutated = Mutated(holder._modules[last], size, spread, chance)  # type: ignore[arg-type]
    holder._modules[last] = mutated
    share = size if spread == "all" else size * 0.3**0.5
    if spread == "one":
        share = size / (args[0].numel()) ** 0.5
    return Mutation(model, args, name, size, spread, share)
