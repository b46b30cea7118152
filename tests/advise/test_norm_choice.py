"""Which norm fits which layer, and when none does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

HEAD = "import torch\nfrom torch import nn\n\n\n"
CONV = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.Identity()
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.out(x.mean((2, 3)))
"""
)
SEQUENCE = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.middle = nn.Linear(16, 24)
        self.out = nn.Linear(24, 4)

    def forward(self, x):
        hidden, _ = self.rnn(x)
        return self.out(torch.tanh(self.middle(hidden)))
"""
)


def norms(model):
    return [m for m in model.modules() if "Norm" in type(m).__name__]


@pytest.mark.parametrize(("way", "shape"), [("1", (5,)), ("2", (5, 5)), ("3", (5, 5, 5))])
def test_a_convolution_gets_the_batch_norm_of_its_axes(study, way, shape):
    text = CONV.replace("Conv2d", f"Conv{way}d").replace(
        "(2, 3)", str(tuple(range(2, 2 + len(shape))))
    )
    done = study(text, 3, *shape)
    fix = done.fixes("GS101", "activation-slope", modules=("conv",))["batch-norm"]
    (norm,) = norms(done.rebuilt(fix))
    assert type(norm).__name__ == f"BatchNorm{way}d"
    assert norm.num_features == 12
    assert f"BatchNorm{way}d" in fix.title


@pytest.mark.parametrize(("batch", "name"), [(8, "batch-norm"), (7, "group-norm")])
def test_a_convolution_with_few_samples_gets_group_norm(study, batch, name):
    done = study(CONV, 3, 5, 5, batch=batch)
    fixes = done.fixes("GS101", modules=("conv",))
    assert {"batch-norm", "group-norm", "layer-norm"} & set(fixes) == {name}
    (norm,) = norms(done.rebuilt(fixes[name]))
    if name == "group-norm":
        # 4 is the largest power of two that divides 12
        assert (norm.num_groups, norm.num_channels) == (4, 12)
        assert f"batch of {batch}" in fixes[name].reason


def test_a_linear_layer_over_a_sequence_gets_layer_norm(study):
    done = study(SEQUENCE, 5, 8)
    fixes = done.fixes("GS101", modules=("middle",))
    assert "batch-norm" not in fixes
    (norm,) = norms(done.rebuilt(fixes["layer-norm"]))
    assert norm.normalized_shape == (24,)


@pytest.mark.parametrize(("batch", "name"), [(1, "layer-norm"), (32, "batch-norm")])
def test_one_sample_at_a_time_gets_layer_norm(study, batch, name):
    text = HEAD + "model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))\n"
    done = study(text, 8, batch=batch)
    fixes = done.fixes("GS101", modules=("0",))
    assert {"batch-norm", "group-norm", "layer-norm"} & set(fixes) == {name}
    assert len(norms(done.rebuilt(fixes[name]))) == 1


def test_a_layer_with_a_norm_and_the_output_layer_get_none(study):
    text = HEAD + (
        "model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))\n"
    )
    done = study(text, 8)
    for module in ("0", "3"):
        assert "batch-norm" not in done.fixes("GS101", modules=(module,))


def test_an_indexed_sequential_keeps_its_indices(study):
    text = (
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x):
        return self.net(x)
"""
    )
    done = study(text, 8)
    model = done.rebuilt(done.fixes("GS101", modules=("net.0",))["batch-norm"])
    assert len(model.net) == 3
    assert isinstance(model.net[0], nn.Sequential)
    assert len(norms(model)) == 1


def test_a_layer_whose_weight_is_read_stays_what_it_is(study):
    text = (
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.tanh(self.fc(x))
        return self.out(torch.tanh(self.fc(x))) + self.fc.weight.mean()
"""
    )
    fix = study(text, 8).fixes("GS101", modules=("fc",))["layer-norm"]
    # called twice and looked into: no line can be changed without breaking one of the two
    assert fix.diff is None
    assert fix.applicability == "placeholders"
    assert "LayerNorm(8)" in fix.snippet


def test_the_norm_trains_with_the_model(study):
    text = HEAD + "model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))\n"
    done = study(text, 8)
    model = done.rebuilt(done.fixes("GS101", modules=("0",))["batch-norm"])
    before = [p.detach().clone() for p in norms(model)[0].parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(32, 8)).square().mean().backward()
    optimizer.step()
    assert all(
        not torch.equal(a, b) for a, b in zip(before, norms(model)[0].parameters(), strict=True)
    )


def test_a_layer_of_one_branch_brings_its_norm_along(study):
    text = (
        HEAD
        + """
class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.main = nn.Linear(inputs, outputs)
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.tanh(self.main(x)) + self.shortcut(x)


model = nn.Sequential(Block(8, 8), Block(8, 16), nn.Linear(16, 4))
"""
    )
    done = study(text, 8)
    model = done.rebuilt(done.fixes("GS101", modules=("1.shortcut",))["batch-norm"])
    assert model(torch.randn(4, 8)).shape == (4, 4)
    assert isinstance(model[0].shortcut, nn.Identity)
    assert len(norms(model)) == 1
