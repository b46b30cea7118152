"""residual: in a block's forward, around items of a Sequential, around a functional call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"
BLOCKS = (
    HEAD
    + """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x):
        FORWARD


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*[Block(8) for _ in range(3)])
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.blocks(x))
"""
)
FORWARDS = {
    "return": "return self.net(x)",
    "variables": "h = self.net(x)\n        return torch.tanh(h)",
    "overwritten": '"""Run it."""\n        x = self.net(x)\n        return x',
    "comparison": "return self.net(x) if self.training else self.net(x)",
}


def ablated(model):
    """The model with every square weight at 0: only a residual path lets the input through."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.in_features == module.out_features:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_block_adds_its_input(study, forward):
    done = study(BLOCKS.replace("FORWARD", FORWARDS[forward]), 8)
    fix = done.fixes("GS101", "depth", modules=("blocks.0.net.0",), also=("blocks.1.net.2",))[
        "residual"
    ]
    assert "`blocks.0` and `blocks.1`" in fix.title
    model = ablated(done.rebuilt(fix))
    x = torch.randn(4, 8)
    assert torch.allclose(model.blocks(x), x)
    assert torch.allclose(ablated(done.model).blocks(x), torch.zeros(4, 8))


@pytest.mark.parametrize(
    "forward",
    [
        "return x + self.net(x)",
        "return self.net(x), x",
        "if x.sum() > 0:\n            return x\n        return self.net(x)",
    ],
)
def test_a_block_that_adds_already_or_returns_twice_is_left_alone(study, forward):
    text = BLOCKS.replace("FORWARD", forward)
    if "), x" in forward:
        text = text.replace("self.blocks(x)", "self.blocks[0](x)[0]").replace(
            "range(3)", "range(1)"
        )
    done = study(text, 8)
    assert "residual" not in done.fixes("GS101", "depth", modules=("blocks.0.net.0",)) or (
        done.fixes("GS101", "depth", modules=("blocks.0.net.0",))["residual"].title.count("net.0")
        == 1
    )


def test_items_one_a_line_are_wrapped_with_their_activation_and_keep_their_comments(study):
    text = (
        HEAD
        + """
# the net
model = nn.Sequential(
    nn.Linear(8, 8),
    nn.Tanh(),  # squashes
    nn.Linear(8, 16),
    nn.Tanh(),
    nn.Linear(16, 4),
)
"""
    )
    done = study(text, 8)
    fix = done.fixes("GS101", "depth", modules=("0", "2"))["residual"]
    new = done.mended(fix)
    assert "    Residual(nn.Linear(8, 8),\n    nn.Tanh()),  # squashes\n" in new
    assert new.index("class Residual") < new.index("# the net\nmodel")
    assert "`0`" in fix.title
    assert "`2`" not in fix.title
    model = ablated(done.rebuilt(fix))
    x = torch.randn(4, 8)
    assert torch.equal(model[0](x), x)
    assert len(model) == 4


def test_a_tuple_of_one_item_stays_a_tuple(study):
    text = (
        HEAD
        + """
model = nn.Sequential(
    *[layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 4)
)
"""
    )
    done = study(text, 8)
    model = done.rebuilt(done.fixes("GS101", "depth", modules=("0",))["residual"])
    assert [type(m).__name__ for m in model] == ["Residual"] * 3 + ["Linear"]


def test_a_functional_layer_adds_its_input_where_it_is_called(study):
    text = (
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = F.tanh(self.first(x))
        return self.out(x)
"""
    )
    done = study(text, 8)
    fix = done.fixes("GS101", "depth", modules=("first",))["residual"]
    assert "x = x + F.tanh(self.first(x))" in done.mended(fix)


def test_a_name_in_use_is_not_taken(study):
    text = (
        HEAD
        + """
class Residual(nn.Module):
    pass


model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
"""
    )
    done = study(text, 8)
    new = done.mended(done.fixes("GS101", "depth", modules=("0",))["residual"])
    assert "class ResidualBranch(nn.Sequential):" in new


def test_a_strided_convolution_cannot_add_its_input(study):
    text = (
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Tanh())
        self.out = nn.Linear(3, 4)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))
"""
    )
    assert "residual" not in study(text, 3, 8, 8).fixes("GS101", "depth", modules=("conv.0",))
    same = study(text.replace("stride=2", "stride=1"), 3, 8, 8)
    fix = same.fixes("GS101", "depth", modules=("conv.0",))["residual"]
    x = torch.randn(2, 3, 8, 8)
    assert same.rebuilt(fix).conv(x).shape == x.shape
