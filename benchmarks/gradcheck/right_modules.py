"""Modules that look suspicious and are right: custom code, states, kinks, odd arguments."""

from __future__ import annotations

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.gradcheck.right_functions import (
    CrossEntropy,
    InPlaceTanh,
    MatMul,
    Reverse,
    Round,
    SortValues,
)


class Apply(nn.Module):
    """Applies a Function with further arguments."""

    def __init__(self, function: Any, *more: Any) -> None:
        super().__init__()
        self.function, self.more = function, more

    def forward(self, x: Tensor) -> Any:
        return self.function.apply(x, *self.more)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0] = y[:, 1].clone() ** 2
        y += x
        return InPlaceTanh.apply(y)


class ChangesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).add_(1)
        return x * x


class Values(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SortValues.apply(x)[0]


class Dense(nn.Module):
    def __init__(self, size: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size) / 3)
        self.bias = nn.Parameter(torch.randn(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return MatMul.apply(x, self.weight, self.bias)


class SoftLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 4)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return CrossEntropy.apply(self.net(x), target)


class StableSoftmax(nn.Module):
    """The maximum is detached: it cancels."""

    def forward(self, x: Tensor) -> Tensor:
        e = (x - x.amax(-1, keepdim=True).detach()).exp()
        return e / e.sum(-1, keepdim=True)


class Counting(nn.Module):
    """Each call is different: a counter, and random numbers of four kinds."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.count, self.history = 0, []
        self.generator = torch.Generator().manual_seed(3)
        self.numpy = np.random.default_rng(5)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        Counting.calls += 1
        self.history.append(self.count)
        noise = torch.randn(x.shape, generator=self.generator).to(x.dtype)
        scale = 1 + 0.1 * self.count + 0.01 * Counting.calls + 0.1 * random.random()
        return x * scale + noise * self.numpy.random() + float(np.random.rand())  # noqa: NPY002


class MovingAverage(nn.Module):
    """Keeps statistics that it does not use in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - x.mean(0)


class Teacher(nn.Module):
    """A frozen copy under no_grad gives the target."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(8, 8), nn.Linear(8, 8)
        self.teacher.requires_grad_(False)
        self.register_buffer("probe", torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(self.probe)
        return (self.student(x) - target) ** 2


class Logs(nn.Module):
    """Gives a detached number beside the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        loss = (self.lin(x) ** 2).mean()
        return {"loss": loss, "log": loss.detach(), "name": "loss", "none": None}


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    index: Tensor | None = None


Pair = namedtuple("Pair", ("first", "second"))


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, Any], *, mask: Tensor | None = None) -> Output:
        first, (second, count) = batch["x"], batch["rest"]
        h = torch.tanh(self.a(first)) * count + second.first
        if mask is not None:
            h = h.masked_fill(mask, 0.0)
        return Output(h, self.b(h), h.argmax(-1))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.w, n=8)


class ComplexInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.w).tanh()


class Single(nn.Module):
    """Asks for single precision inside, as many normalisations do."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class SingleTable(nn.Module):
    """Adds a table that was made in single precision, by multiplying matrices of one format."""

    def forward(self, x: Tensor) -> Tensor:
        table = torch.ones(8, 8, dtype=torch.float32).tril()
        return x.to(torch.float32) @ table


class Repeated(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, self.stem(x), use_reentrant=self.reentrant)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, index: Tensor) -> Tensor:
        return F.linear(self.mix(self.words(index)), self.words.weight)


class Rotary(nn.Module):
    """Keeps its angles from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            steps = torch.arange(x.shape[1], dtype=x.dtype)[:, None]
            self.cache = steps / 100.0 ** torch.linspace(0, 1, x.shape[-1] // 2, dtype=x.dtype)
        a, b = x.chunk(2, -1)
        sin, cos = self.cache.sin().to(x.dtype), self.cache.cos().to(x.dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(x[rows]) * weight[rows, place, None])
        return out


class Auto(nn.Module):
    """A variational autoencoder: samples, and a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1).mean()
        return self.decode(z), kl


class Coupling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, -1)
        s, t = self.net(a).chunk(2, -1)
        return torch.cat([a, b * s.tanh().exp() + t], -1), s.tanh().sum(-1)


class Quantize(nn.Module):
    """A vector quantiser: the nearest word, and the gradient straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(16, 8)

    def forward(self, z: Tensor) -> Tensor:
        index = torch.cdist(z, self.words.weight).argmin(-1)
        q = self.words(index)
        return z + (q - z).detach()


class RoundInline(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + ((4 * x).round() / 4 - x).detach()


class QuantizedDense(nn.Module):
    """A linear layer with weights of eight bits."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        step = 0.05
        w = Round.apply(self.lin.weight / step) * step
        return F.linear(x, w, self.lin.bias)


class Domain(nn.Module):
    """A head for the domain behind a gradient reversal, inside one module."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Reverse.apply(torch.tanh(self.features(x)), 0.3))


class Unrolled(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 8)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            h = h[0] if isinstance(h, tuple) else h
        return h


class PlainList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step.forward(x)
        return x


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda row: torch.tanh(F.linear(row, self.lin.weight)))(x)


class Hyper(nn.Module):
    """One net gives the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.net = nn.Linear(3, 8 * 4 + 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        flat = self.source(context)
        values = {"weight": flat[:32].view(4, 8), "bias": flat[32:]}
        return torch.func.functional_call(self.net, values, (x,))


class Penalty(nn.Module):
    """Differentiates inside its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return (g.norm(dim=-1) - 1) ** 2


class MultiHead(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return self.attention(x, x, x, attn_mask=mask)[0]
