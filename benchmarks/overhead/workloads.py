"""The five trainings whose cost is measured, from many small tensors to few large ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Workload:
    """A training.

    Attributes:
        name: W1 to W5.
        title: what it is.
        model: builds the model.
        batch: builds one batch, inputs and class targets; every step uses the same one.
        rate: Adam's learning rate, small enough for thousands of steps on one batch.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    rate: float = 1e-5

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over classes, which are the last axis of the output."""
        return functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def _mlp() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(784, 512), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


class _Block(nn.Module):
    """Two convolutions with batch norm around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


def _resnet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(width, after, stride), _Block(after, after, 1)]
        width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class _GPT(nn.Module):
    """A decoder of pre-norm blocks with learned positions."""

    def __init__(self, vocabulary: int = 5_000, width: int = 256, layers: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(128, width) * 0.02)
        self.blocks = nn.ModuleList(_Attention(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Attention(nn.Module):
    """Causal self-attention and an MLP."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(samples, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(samples, length, width))
        return x + self.mlp(self.norm2(x))


def _many_small() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(200):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers)


def _few_large() -> nn.Module:
    return nn.Sequential(nn.Linear(5_000, 5_000), nn.ReLU(), nn.Linear(5_000, 5_000))


def _vectors(samples: int, width: int, classes: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(samples, width), torch.randint(classes, (samples,)))


WORKLOADS = (
    Workload("W1", "MLP 784-512×6-10, batch 128", _mlp, _vectors(128, 784, 10)),
    Workload(
        "W2", "ResNet-18-like, 32×32, batch 64", _resnet,
        lambda: (torch.randn(64, 3, 32, 32), torch.randint(10, (64,))),
    ),
    Workload(
        "W3", "GPT-like, 6 layers, d 256, T 128, batch 8", _GPT,
        lambda: (torch.randint(5_000, (8, 128)), torch.randint(5_000, (8, 128))),
    ),
    Workload("W4", "200 linear layers of width 64, batch 64", _many_small, _vectors(64, 64, 64)),
    Workload("W5", "50 M parameters in 4 tensors, batch 8", _few_large, _vectors(8, 5_000, 5_000)),
)  # fmt: skip
