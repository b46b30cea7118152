"""Modules with one fault each, and those that hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.gradcheck import faulty_functions as wrong
from benchmarks.gradcheck.case import Block, Call


class Dense(nn.Module):
    """A linear layer on a custom Function."""

    def __init__(self, function: Any, size: int = 6) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(size, size) / size**0.5)
        self.bias = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function.apply(x, self.weight, self.bias)
        return out


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 8))

    def forward(self, index: Tensor) -> Tensor:
        return wrong.Lookup.apply(index, self.table)


class Criterion(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return wrong.CrossEntropy.apply(logits, target)


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.criterion = nn.Linear(8, 5), Criterion()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.criterion(self.net(x), target)


class Attention(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(size, size) for _ in range(3))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return wrong.Scores.apply(q, k)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(self.q(x), self.k(x))
        return x + self.weights(scores) @ self.v(x)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)


class DetachedAttention(Attention):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2) / 3

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).detach()


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return wrong.Gate.apply(*self.both(x).chunk(2, -1))


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.register_buffer("target", torch.tensor([0, 1, 2, 0, 1, 3]))

    def forward(self, x: Tensor) -> Tensor:
        return wrong.Scatter.apply(self.lin(x), self.target, 6)


class Rotation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.angle = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
        z = wrong.Rotate.apply(z, torch.polar(torch.ones_like(self.angle), self.angle))
        return torch.view_as_real(z).flatten(-2)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return wrong.Outer.apply(x, self.scale)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        total, product = wrong.TwoResults.apply(self.a(x), self.b(x))
        return total + product


class Branch(nn.Module):
    """``x + f(x)`` with something done to the branch."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.change = nn.Linear(8, 8), change

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(torch.tanh(self.f(x)))


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid().detach()


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.features(x)
        return self.head(torch.tanh(h))


class DataWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.data


class NormItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm().item()


class Rebuilt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor(self.gain.tolist(), dtype=x.dtype)


class Truncated(nn.Module):
    """A recurrent net that forgets its graph between steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 8)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h.detach())
        return h


class Statistics(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True).detach(), x.std(-1, keepdim=True).detach()
        return (x - mean) / spread


class DataAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        y.data.add_(self.lin(x).data)
        return y


class HookInside(nn.Module):
    def __init__(self, hook: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin, self.hook = nn.Linear(8, 8), hook

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.lin(x))
        if h.requires_grad:
            h.register_hook(self.hook)
        return h


class SafeRoot(nn.Module):
    """NaN behind ``where``: the branch that is not taken has an infinite slope."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.sqrt(), torch.zeros_like(x)) + x


class SafePower(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x**1.5, torch.zeros_like(x))


class SafeDivide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = (x > 0).to(x.dtype).sum(-1, keepdim=True) * 0
        return torch.where(count > 0, x / count, x)


class Shared(nn.Module):
    """One faulty module used twice, with a right one between."""

    def __init__(self) -> None:
        super().__init__()
        self.act = Call(wrong.POINTWISE["tanh times one half"][0].apply)
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lin(self.act(x)))


class Listed(nn.Module):
    """A module in a plain list, which PyTorch does not register."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [nn.Linear(8, 8), Call(wrong.POINTWISE["square without the two"][0].apply)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Direct(nn.Module):
    """The faulty module's ``forward`` is called, not the module."""

    def __init__(self) -> None:
        super().__init__()
        self.act = Call(wrong.POINTWISE["softplus with a wrong sign"][0].apply)
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.act.forward(self.lin(x))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.reentrant = nn.Linear(8, 8), reentrant
        self.block = Block(8, Call(wrong.POINTWISE["square without the two"][0].apply))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, self.stem(x), use_reentrant=self.reentrant)


class Named(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        return {"y": F.relu(x + 3) * scale.detach()}
