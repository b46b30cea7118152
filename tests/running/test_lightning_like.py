"""A model that brings its own loop parts, told by its methods alone."""

import pytest
import torch

from gradscope.errors import LoadError
from gradscope.running.training import train

MODULE = """
class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.seen = []
    def forward(self, x):
        return self.fc(x)
    def training_step(self, batch, batch_idx):
        self.seen.append(batch_idx)
        return {"loss": nn.functional.mse_loss(self(batch[0]), batch[1])}
    def setup(self, stage):
        self.stage = stage
    def train_dataloader(self):
        assert self.stage == "fit"
        return [(torch.full((4, 3), 2.0), torch.zeros(4, 2))]
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
"""


def test_it_brings_batches_loss_and_optimizer(desk):
    found = desk.load(MODULE)
    assert found.took == {
        "model": "`Lit()`",
        "batches": "the model's `train_dataloader()`",
        "loss": "the model's `training_step`",
        "optimizer": "`configure_optimizers()`",
    }
    assert train(found, steps=3, seconds=60) is None
    assert found.model.seen == [0, 1, 2]
    assert found.optimizer.param_groups[0]["lr"] == 0.125


def test_the_files_batches_stand_in_for_a_missing_loader(desk):
    text = MODULE.replace("def train_dataloader", "def other") + (
        "batch = torch.randn(4, 3), torch.zeros(4, 2)\n"
    )
    assert desk.load(text).took["batches"] == "`batch`, the same in every step"


def test_a_schedule_by_epochs_is_said_not_to_run(desk):
    found = desk.load(MODULE.replace('"interval": "step"', '"interval": "epoch"'))
    assert found.schedulers == ()
    assert any("LambdaLR moves once an epoch" in s for s in found.assumptions)


def test_one_that_steps_itself_is_refused(desk):
    with pytest.raises(LoadError, match="steps its optimizers itself"):
        desk.load(MODULE + "    automatic_optimization = False\n")


def test_the_methods_of_a_framework_base_class_are_not_its_own(desk, tmp_path):
    base = tmp_path / "lightning"
    base.mkdir()
    (base / "__init__.py").write_text(
        "from torch import nn\n"
        "class LightningModule(nn.Module):\n"
        "    def setup(self, stage): raise RuntimeError('not overridden')\n"
        "    def train_dataloader(self): raise RuntimeError('not overridden')\n"
    )
    text = (
        "from lightning import LightningModule\n"
        + MODULE.replace("nn.Module)", "LightningModule)").replace("def setup", "def other")
        + "Lit.stage = 'fit'\n"
    )
    assert desk.load(text).took["batches"] == "the model's `train_dataloader()`"
    assert torch.equal(next(desk.load(text).batches())[0], torch.full((4, 3), 2.0))
