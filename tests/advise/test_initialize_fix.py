"""initialize: lines that stand are changed, else new ones are added where they hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

HEAD = "import torch\nimport torch.nn as nn\n\n\n"
CLASS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.fc2 = nn.Linear(64, 64)
        self.out = nn.Linear(64, 4)
        BEFORE

    def forward(self, x):
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
"""
)
SPOILERS = {
    "init-by-name": "nn.init.normal_(self.fc1.weight, std=2.0)",
    "data-call": "self.fc1.weight.data.normal_(0, 2.0)",
    "data-scale": "self.fc1.weight.data.mul_(20)",
    "data-times": "self.fc1.weight.data *= 20",
    "data-assigned": "self.fc1.weight.data = 2 * torch.randn(64, 64)",
    "two-lines": (
        "nn.init.normal_(self.fc1.weight)\n        nn.init.normal_(self.fc1.weight, std=2.0)"
    ),
    "modules": (
        "for m in self.modules():\n            if isinstance(m, nn.Linear):\n"
        "                nn.init.normal_(m.weight, std=2.0)"
    ),
    "parameters": "for p in self.parameters():\n            nn.init.normal_(p, std=2.0)",
    "no-grad": (
        "with torch.no_grad():\n            for layer in (self.fc1, self.fc2):\n"
        "                layer.weight.mul_(20)"
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_line_that_spoils_the_weights_is_the_one_that_changes(study, spoiler):
    done = study(CLASS.replace("BEFORE", SPOILERS[spoiler]), 64)
    assert done.model.fc1.weight.std() > 1
    fix = done.fixes("GS102", modules=("fc1",))["initialize"]
    model = done.rebuilt(fix)
    assert model.fc1.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert fix.diff.count("\n+") == 2
    assert "times the 0.18 of kaiming_normal" in fix.reason


def test_an_init_function_passed_to_apply_is_changed(study):
    text = (
        HEAD
        + """
def init(m):
    if isinstance(m, nn.Embedding):
        nn.init.normal_(m.weight, std=9.0)
    if isinstance(m, nn.Linear):
        torch.nn.init.uniform_(m.weight, -5, 5)


model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
model.apply(init)
"""
    )
    done = study(text, 64)
    text = done.mended(done.fixes("GS102", modules=("0",))["initialize"])
    assert 'nn.init.kaiming_normal_(m.weight, nonlinearity="relu")' in text
    assert "std=9.0" in text
    assert "uniform_" not in text


def test_an_own_variable_of_another_layer_is_left_alone(study):
    text = (
        HEAD
        + """
def build_model():
    head = nn.Linear(64, 4)
    head.weight.data.mul_(0.0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), head)
"""
    )
    done = study(text, 64)
    text = done.mended(done.fixes("GS101", "small-weights", modules=("0",))["initialize"])
    assert "head.weight.data.mul_(0.0)" in text
    assert "model = nn.Sequential(" in text
    assert "xavier_normal_(module.weight, gain=5 / 3)" in text


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        ("ReLU", math.sqrt(2 / 64)),
        ("GELU", math.sqrt(2 / 64)),
        ("Tanh", 5 / 3 / math.sqrt(64)),
        ("Sigmoid", 1 / math.sqrt(64)),
    ],
)
def test_the_scheme_fits_the_activation_behind(study, activation, std):
    text = (
        HEAD
        + f"""
model = nn.Sequential(nn.Linear(64, 64), nn.{activation}(), nn.Linear(64, 4))
model[0].weight.data.fill_(0.001)
"""
    )
    done = study(text, 64)
    fix = done.fixes("GS101", "small-weights", modules=("0",))["initialize"]
    model = done.rebuilt(fix)

    assert model[0].weight.std().item() == pytest.approx(std, rel=0.1)


def test_biases_that_keep_units_off_become_zero(study):
    text = CLASS.replace("BEFORE", "nn.init.constant_(self.fc1.bias, -10.0)")
    done = study(text, 64)
    fix = done.fixes("GS301", modules=("fc1",))["initialize"]
    model = done.rebuilt(fix)
    assert torch.equal(model.fc1.bias, torch.zeros(64))
    assert "begins at -10" in fix.reason
    assert list(done.fixes("GS301", modules=("fc1",)))[:2] == ["initialize", "replace-activation"]


def test_weights_of_the_right_size_are_not_called_wrong(study):
    done = study(
        CLASS.replace("BEFORE", 'nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")'), 64
    )
    assert "initialize" not in done.fixes("GS102", modules=("fc1",))


@pytest.mark.parametrize(("scale", "called_wrong"), [(1.45, False), (1.55, True)])
def test_the_limit_on_both_sides(study, scale, called_wrong):
    text = CLASS.replace("BEFORE", "nn.init.normal_(self.fc1.weight, std=0.17678)")
    done = study(text, 64)
    for row in done.records["parameters"]:
        if row["path"] == "fc1.weight":
            row["initial_std"] = math.sqrt(2 / 64) * scale
    assert ("initialize" in done.fixes("GS102", modules=("fc1",))) is called_wrong


def test_tied_weights_stay_tied(study):
    text = CLASS.replace("BEFORE", "self.fc2.weight = self.fc1.weight")
    done = study(text, 64)
    model = done.rebuilt(done.fixes("GS101", "small-weights", modules=("fc1",))["initialize"])
    assert model.fc1.weight is model.fc2.weight
    assert isinstance(model.fc1, nn.Linear)
