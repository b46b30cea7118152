"""Which optimizer is taken from a file."""

import pytest
import torch

from gradscope.errors import LoadError

MODEL = "model = nn.Linear(3, 2)\nbatch = torch.randn(8, 3), torch.randn(8, 2)\n"


@pytest.mark.parametrize(
    ("text", "kind", "took"),
    [
        ("optimizer = torch.optim.SGD(model.parameters(), 0.5)\n", "SGD", "`optimizer`"),
        (
            "def make_optimizer(model):\n    return torch.optim.Adagrad(model.parameters())\n",
            "Adagrad",
            "`make_optimizer(model)`",
        ),
        (
            "def configure_optimizers(model):\n    return torch.optim.NAdam(model.parameters())\n",
            "NAdam",
            "`configure_optimizers()`",
        ),
        ("", "AdamW", "AdamW, lr 0.001"),
    ],
)
def test_each_source_is_found(desk, text, kind, took):
    found = desk.load(MODEL + text)
    assert type(found.optimizer).__name__ == kind
    assert found.took["optimizer"] == took
    held = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in found.model.parameters()}


def test_what_was_assumed_is_said(desk):
    found = desk.load(MODEL)
    assert found.optimizer.param_groups[0]["lr"] == 1e-3
    assert any("AdamW with a learning rate of 0.001" in s for s in found.assumptions)


def test_frozen_parameters_stay_out_of_the_assumed_optimizer(desk):
    found = desk.load(MODEL + "model.bias.requires_grad_(False)\n")
    assert len(found.optimizer.param_groups[0]["params"]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.requires_grad_(False)\n", "none of the 2 parameters of Linear requires grad"),
        ("optimizer = torch.optim.SGD\n", "optimizer is no optimizer but the class SGD"),
        (
            "def make_optimizer(model):\n    return 3\n",
            "make_optimizer(model) is no optimizer but int",
        ),
        (
            "def make_optimizer(model):\n    return torch.optim.SGD([], 0.1)\n",
            "make_optimizer(model) failed: ValueError",
        ),
        (
            "def configure_optimizers(model):\n    a = torch.optim.SGD(model.parameters())\n"
            "    return [a, a]\n",
            "configure_optimizers() returned 2 optimizers",
        ),
    ],
)
def test_bad_optimizers_are_told(desk, text, words):
    with pytest.raises(LoadError) as caught:
        desk.load(MODEL + text)
    assert words in caught.value.what


def test_a_model_without_parameters_is_told(desk):
    with pytest.raises(LoadError, match="nothing to train: Flatten has no parameters") as caught:
        desk.load("model = nn.Flatten()\nbatch = torch.randn(2, 3), torch.randn(2, 3)\n")
    assert "nn.ModuleList" in caught.value.hint


def test_lazy_layers_take_their_shape_before_the_optimizer_is_made(desk):
    found = desk.load(
        "model = nn.LazyLinear(2)\nbatch = torch.randn(8, 3), torch.randn(8, 2)\n"
        "def loss(model, batch):\n    return (model(batch[0]) - batch[1]).square().mean()\n"
    )
    held = found.optimizer.param_groups[0]["params"]
    assert torch.Size([2, 3]) in [p.shape for p in held]
