"""Modern convolutional blocks as model zoos build them, and mixers, at random initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates, supervised


class ConvNeXtBlock(nn.Module):
    """After Liu et al. (2022): depthwise convolution, norm, two maps, a scale that starts small."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.leave = nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        branch = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        branch = self.gamma * self.leave(self.act(self.enter(branch)))
        return x + branch.permute(0, 3, 1, 2)


class MixerBlock(nn.Module):
    """After Tolstikhin et al. (2021): a network over the places, one over the channels."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(places, 24), nn.GELU(), nn.Linear(24, places))
        self.within = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class SqueezeBlock(nn.Module):
    """An inverted bottleneck with squeeze and excitation, after Howard et al. (2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.act = nn.SiLU()
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.norm = nn.BatchNorm2d(2 * width)
        self.squeeze = nn.Linear(2 * width, width // 2)
        self.excite = nn.Linear(width // 2, 2 * width)
        self.gate = nn.Sigmoid()
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        hidden = self.norm(self.depthwise(self.act(self.expand(x))))
        weights = self.gate(self.excite(torch.relu(self.squeeze(hidden.mean((2, 3))))))
        return x + self.project(hidden * weights[:, :, None, None])


class Mixer(nn.Module):
    """Patches, two mixer blocks, a head."""

    def __init__(self, side: int, outputs: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 24, 2, 2)
        self.blocks = nn.Sequential(*[MixerBlock((side // 2) ** 2, 24) for _ in range(2)])
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[n, outputs]``."""
        hidden = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(hidden).mean(1))


def _build(variant: str, data: Data) -> Draft:
    if variant == "mixer":
        return supervised(Mixer(data.x.shape[-1], data.outputs), data)
    if variant == "squeeze":
        blocks: list[nn.Module] = [SqueezeBlock(16) for _ in range(2)]
    else:
        scale = 1e-2 if variant == "layer-scale" else 1.0
        blocks = [ConvNeXtBlock(16, scale) for _ in range(3)]
    model = nn.Sequential(
        nn.Conv2d(1, 16, 2, 2), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(64, data.outputs),
    )  # fmt: skip
    return supervised(model, data)


CONVNEXT = Family(
    "convnext",
    "reporting",
    {
        "plain": ("digits", "mnist"),
        "layer-scale": ("digits",),
        "squeeze": ("digits",),
        "mixer": ("digits",),
    },
    rates(1.0, sgd=0.2),
    _build,
)
