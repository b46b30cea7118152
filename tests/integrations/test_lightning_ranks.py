"""Lightning on two ranks: one run folder, the reduced gradient in both parts, one report."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradscope

SCRIPT = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import lightning.pytorch as pl
from gradscope.integrations.lightning import GradscopeCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    data = load_digits()
    x = torch.tensor(data.data[:256], dtype=torch.float32) / 16
    batches = DataLoader(TensorDataset(x, torch.tensor(data.target[:256])), batch_size=32)
    trainer = pl.Trainer(
        max_epochs=1, devices=2, strategy="ddp", accelerator="cpu", logger=False,
        callbacks=[GradscopeCallback(every=1)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=True,
    )
    trainer.fit(Digits(), batches)
"""


def test_two_ranks_share_a_folder_and_see_the_reduced_gradient(digits, made, folder):
    (folder / "train.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "train.py"], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True, capture_output=True, timeout=400,
    )  # fmt: skip
    (run,) = (entry for entry in (folder / ".gradscope").iterdir() if entry.is_dir())
    assert (run / "report.html").stat().st_size > 20_000
    recording = gradscope.load_run(run)
    assert list(recording.shards) == ["rank1"]
    assert recording.limits == ()
    ranks = (recording, recording.shards["rank1"])
    assert [len(rank.steps) for rank in ranks] == [4, 4]

    # the first step by hand, on the digits that Lightning deals out to each rank
    losses, model = [], made()
    for rank in range(2):
        dealt = torch.utils.data.DistributedSampler(range(256), 2, rank, shuffle=True, seed=0)
        indices = list(dealt)[:32]
        loss = nn.functional.cross_entropy(model(digits[0][indices]), digits[1][indices])
        losses.append(loss.item())
        (loss / 2).backward()  # the mean over both ranks
    expected = {
        f"network.{name}": math.sqrt(float(p.grad.double().square().sum()))
        for name, p in model.named_parameters()
    }
    for rank, loss in zip(ranks, losses, strict=True):
        first = rank.gradients[rank.gradients["step"] == 0]
        norms = dict(zip(first["parameter"], first["norm"], strict=True))
        assert norms == pytest.approx(expected, rel=1e-4)
        assert rank.steps["loss"].iloc[0] == pytest.approx(loss, rel=1e-5)
