"""Residual networks, of convolutions and of linear maps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import kaiming, rates, supervised
from benchmarks.accuracy.families.mlp import two_heads

_WIDTH = 12


class ConvBlock(nn.Module):
    """Two convolutions and a shortcut, activations called as functions.

    Args:
        inward: channels.
        outward: channels; a stride of 2 where they differ from ``inward``.
        zero: the last norm's gain starts at zero, so that the block starts as the identity.
    """

    def __init__(self, inward: int, outward: int, *, zero: bool = False) -> None:
        super().__init__()
        stride = 1 if inward == outward else 2
        self.conv1 = nn.Conv2d(inward, outward, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inward, outward, 1, stride)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of branch and shortcut, rectified."""
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(branch + self.shortcut(x))


class MapBlock(nn.Module):
    """A norm, two linear maps and a shortcut.

    Args:
        width: of the stream.
        zero: the last map starts at zero.
    """

    def __init__(self, width: int, *, zero: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter, self.act, self.leave = (
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )  # fmt: skip
        if zero:
            nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the block."""
        return x + self.leave(self.act(self.enter(self.norm(x))))


class TwoHeaded(nn.Module):
    """A residual body with a head for the class and one for the quadrants' ink."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.stem = nn.Linear(data.x[0].numel(), 48)
        self.blocks = nn.Sequential(*[MapBlock(48, zero=False) for _ in range(2)])
        self.label, self.ink = nn.Linear(48, data.outputs), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and ink."""
        hidden = functional.relu(self.blocks(self.stem(x.flatten(1))))
        return self.label(hidden), self.ink(hidden)


def _convolutional(data: Data, depth: int, *, zero: bool) -> nn.Module:
    blocks: list[nn.Module] = [ConvBlock(_WIDTH, _WIDTH, zero=zero) for _ in range(depth // 2)]
    blocks.append(ConvBlock(_WIDTH, 2 * _WIDTH, zero=zero))
    blocks += [ConvBlock(2 * _WIDTH, 2 * _WIDTH, zero=zero) for _ in range(depth // 2)]
    return nn.Sequential(
        nn.Conv2d(1, _WIDTH, 3, padding=1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * _WIDTH, data.outputs),
    )  # fmt: skip


def _build(variant: str, data: Data) -> Draft:
    if variant == "conv":
        return supervised(_convolutional(data, 2, zero=False), data)
    if variant == "conv-zero":
        return supervised(_convolutional(data, 4, zero=True), data, rate=3.0)
    if variant == "two-heads":
        return two_heads(TwoHeaded(data), data)
    depth = 10 if variant == "maps-deep" else 3
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(data.x[0].numel(), 40),
        *[MapBlock(40, zero=variant == "maps-zero") for _ in range(depth)],
        nn.LayerNorm(40), nn.Linear(40, data.outputs),
    )  # fmt: skip
    return supervised(model if variant == "maps-zero" else kaiming(model), data, rate=0.5)


_TABLES = ("digits", "wine", "cancer", "diabetes")

RESNET = Family(
    "resnet",
    "reporting",
    {
        "conv": ("digits",),
        "conv-zero": ("digits",),
        "maps": _TABLES,
        "maps-zero": _TABLES,
        "maps-deep": ("digits", "wine", "diabetes"),
        "two-heads": ("digits",),
    },
    rates(),
    _build,
)
