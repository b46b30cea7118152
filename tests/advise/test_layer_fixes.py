"""Fixes of layers in every style in which people write models; each diff is applied and run."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn


@contextmanager
def watching(name):
    """The calls of a function of torch, in the order made."""
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") == name:
                seen.append((*args, *(kwargs or {}).values()))
            return func(*args, **(kwargs or {}))

    with Mode():
        yield seen


HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"

ONE_LINE = HEAD + "model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4))\n"
ONE_A_LINE = (
    HEAD
    + """
model = nn.Sequential(
    nn.Linear(8, 16),  # the first
    nn.Sigmoid(),
    nn.Linear(16, 4),
)
"""
)
NO_TRAILING_COMMA = (
    HEAD
    + """
model = nn.Sequential(nn.Sequential(
    nn.Sigmoid(),
    nn.Linear(8, 16)  # the last
), nn.Linear(16, 4))
"""
)
NESTED = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.Sigmoid()), nn.Linear(16, 4))

    def forward(self, x):
        return self.net(x)
"""
)
ATTRIBUTE = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.fc1 = nn.Linear(8, width)  # wide
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        return self.out(torch.sigmoid(self.fc1(x)))
"""
)
LOOP = (
    HEAD
    + """
def build_model(width=16):
    layers = []
    size = 8
    for _ in range(3):
        layers.append(nn.Linear(size, width))
        layers.append(nn.Sigmoid())
        size = width
    return nn.Sequential(*layers, nn.Linear(width, 4))
"""
)
COMPREHENSION = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [8, 16, 16]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.out(x)
"""
)
HELPER = (
    HEAD
    + """
def block(inputs, outputs):
    return [nn.Linear(inputs, outputs), nn.Sigmoid()]


def build_model():
    return nn.Sequential(*block(8, 16), *block(16, 16), nn.Linear(16, 4))
"""
)
NAMED = (
    HEAD
    + """
from collections import OrderedDict

model = nn.Sequential(OrderedDict([
    ("fc1", nn.Linear(8, 16)),
    ("act", nn.Sigmoid()),
    ("out", nn.Linear(16, 4)),
]))
"""
)
FROM_IMPORT = """
from torch.nn import Linear, Module, Sequential, Sigmoid as Squash


class Net(Module):
    def __init__(self):
        super().__init__()
        self.body = Sequential(Linear(8, 16), Squash())
        self.out = Linear(16, 4)

    def forward(self, x):
        return self.out(self.body(x))
"""
FULL_NAMES = """
import torch

model = torch.nn.Sequential(
    torch.nn.Linear(in_features=8, out_features=16),
    torch.nn.Sigmoid(),
    torch.nn.Linear(16, 4),
)
"""

STYLES = {
    "one-line": (ONE_LINE, ["0"], 1),
    "one-a-line": (ONE_A_LINE, ["0"], 1),
    "no-trailing-comma": (NO_TRAILING_COMMA, ["0.1"], 1),
    "nested": (NESTED, ["net.0.0"], 1),
    "attribute": (ATTRIBUTE, ["fc1"], 1),
    "loop": (LOOP, ["0"], 3),
    "comprehension": (COMPREHENSION, ["layers.0"], 2),
    "helper": (HELPER, ["2"], 2),
    "named": (NAMED, ["fc1"], 1),
    "from-import": (FROM_IMPORT, ["body.0"], 1),
    "full-names": (FULL_NAMES, ["0"], 1),
}


@pytest.mark.parametrize("style", STYLES)
def test_each_named_layer_is_followed_by_a_norm_of_its_width(study, style):
    text, modules, norms = STYLES[style]
    done = study(text, 8)
    fix = done.fixes("GS101", "activation-slope", modules=tuple(modules))["batch-norm"]
    assert fix.applicability == "may-change-results"
    assert f"`{modules[0]}`" in fix.title
    model = done.rebuilt(fix)
    found = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [m.num_features for m in found] == [16] * norms
    assert ("one line builds" in fix.cost) == (norms > 1)
    # it really runs on the layer's output: what the norm reads is what the layer made
    seen = []
    linear = next(m for m in model.modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda m, i, o: seen.append(o))
    found[0].register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    model(torch.randn(16, 8))
    assert seen[0] is seen[1]


@pytest.mark.parametrize("style", [s for s in STYLES if s != "no-trailing-comma"])
def test_no_sigmoid_is_left_and_the_weights_fit_relu(study, style):
    text, modules, _ = STYLES[style]
    done = study(text, 8)
    fix = done.fixes("GS101", "activation-slope", modules=tuple(modules))["replace-activation"]
    assert fix.applicability == "may-change-results"
    with watching("sigmoid") as sigmoids, watching("relu") as relus:
        model = done.rebuilt(fix)
        model(torch.randn(4, 8))
    assert not sigmoids
    assert relus
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    # He et al. 2015: standard deviation sqrt(2 / fan_in); 128 draws give it within a fifth
    assert first.weight.std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.2)


@pytest.mark.parametrize("style", [s for s in STYLES if s != "no-trailing-comma"])
def test_dead_relus_become_leaky(study, style):
    text, modules, _ = STYLES[style]
    text = text.replace("Sigmoid", "ReLU").replace("torch.sigmoid", "F.relu")
    done = study(text, 8)
    fix = done.fixes("GS301", modules=tuple(modules))["replace-activation"]
    assert "LeakyReLU" in fix.title
    with watching("leaky_relu") as leaky, watching("relu") as relus:
        model = done.rebuilt(fix)
        model(torch.randn(4, 8))
    assert leaky
    assert all(call[1] == 0.1 for call in leaky)
    assert not relus


@pytest.mark.parametrize("style", ["loop", "helper", "comprehension"])
def test_a_residual_path_carries_the_gradient_when_the_weights_are_zero(study, style):
    text, _, _ = STYLES[style]
    text = text.replace("size = 8", "size = 16").replace("[8, 16, 16]", "[16, 16, 16]")
    text = text.replace("*block(8, 16)", "*block(16, 16)")
    done = study(text, 16)
    names = tuple(n for n, m in done.model.named_modules() if isinstance(m, nn.Linear))[:-1]
    fix = done.fixes("GS101", "depth", modules=names)["residual"]
    model = done.rebuilt(fix)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features == 16:
            nn.init.zeros_(module.weight)
    x = torch.randn(4, 16, requires_grad=True)
    model(x).sum().backward()
    (plain,) = torch.autograd.grad(done.model(x).sum(), x)
    assert x.grad.norm() > 1
    assert torch.isfinite(plain).all()
    assert len(list(model.parameters())) == len(list(done.model.parameters()))


CODES = ("GS101", "GS102", "GS301", "GS302", "GS404")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("code", CODES)
def test_every_diff_for_every_layer_applies_and_builds(study, style, code):
    text, _, _ = STYLES[style]
    done = study(text, 8)
    for row in done.records["parameters"]:
        # far from every scheme, so that the initialisation has its say too
        row["initial_std"] = 1e-4
    shape = done.model(torch.randn(4, 8)).shape
    applied = 0
    for name, _ in done.model.named_modules():
        for fix in done.fixes(code, modules=(name,)).values():
            assert (fix.diff is None) == (fix.applicability == "placeholders")
            if fix.diff is not None:
                assert done.rebuilt(fix)(torch.randn(4, 8)).shape == shape
                applied += 1
    assert applied >= 3
