"""Convolutional networks on small images."""

from __future__ import annotations

from torch import nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import kaiming, rates, supervised


def cnn(
    data: Data, depth: int, activation: type[nn.Module], norm: bool = False, width: int = 12
) -> nn.Sequential:
    """``depth`` convolutions, a pooling after each second one, a linear head."""
    parts: list[nn.Module] = []
    channels, size = 1, data.x.shape[-1]
    for place in range(depth):
        parts.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
        if norm:
            parts.append(nn.BatchNorm2d(width))
        parts.append(activation())
        channels = width
        if place % 2 and size > 3:
            parts.append(nn.MaxPool2d(2))
            size //= 2
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width * size * size, data.outputs))


def _build(variant: str, data: Data) -> Draft:
    if variant == "small":
        return supervised(kaiming(cnn(data, 2, nn.ReLU)), data, rate=0.5)
    if variant == "default-init":
        return supervised(cnn(data, 3, nn.ReLU), data)
    if variant == "deep":
        return supervised(kaiming(cnn(data, 7, nn.ReLU)), data, rate=0.3)
    if variant == "tanh":
        return supervised(cnn(data, 2, nn.Tanh), data)
    return supervised(cnn(data, 4, nn.ReLU, norm=True), data)


_IMAGES = ("digits", "mnist")

CNN = Family(
    "cnn",
    "tuning",
    {
        "small": _IMAGES,
        "default-init": ("digits",),
        "deep": _IMAGES,
        "tanh": ("digits",),
        "batch-norm": _IMAGES,
    },
    rates(),
    _build,
)
