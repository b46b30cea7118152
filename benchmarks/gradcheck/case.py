"""What a case of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...]] | tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One module with its arguments and what is known about it.

    Attributes:
        name: unique.
        build: gives module, args and maybe kwargs; called with torch seeded.
        verdict: what a check should say.
        culprit: qualified name of the deepest module at fault, None where nothing is.
        kinds: kinds of fault that are a fair description; empty where it does not matter.
        kinky: the point is a kink, so the reference compares next to it.
        noisy: forward draws random numbers or counts, so the reference seeds each call.
    """

    name: str
    build: Callable[[], Built]
    verdict: str
    culprit: str | None = None
    kinds: tuple[str, ...] = field(default=())
    kinky: bool = False

    def make(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        """Module, args and kwargs, always the same ones."""
        torch.manual_seed(0)
        built = self.build()
        return built if len(built) == 3 else (*built, {})


def stack(*modules: nn.Module) -> nn.Sequential:
    """Modules one after the other."""
    return nn.Sequential(*modules)


class Call(nn.Module):
    """A module that applies a function to its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class Block(nn.Module):
    """A pre-norm residual block around an activation, as in a transformer."""

    def __init__(self, size: int, act: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, 2 * size)
        self.act = act
        self.down = nn.Linear(2 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Net(nn.Module):
    """An embedding, blocks in a ModuleList, and a head: names as in a real model."""

    def __init__(self, blocks: list[nn.Module], size: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(size, size)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(size, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
