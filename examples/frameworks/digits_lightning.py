"""A Lightning training with gradscope's callback: one line in the Trainer, nothing else."""

import argparse

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.integrations.lightning import GradscopeCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="digits_lightning.html")
    arguments = parser.parse_args()

    pl.seed_everything(0)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = DataLoader(TensorDataset(pixels, torch.tensor(digits.target)), 64, shuffle=True)
    watcher = GradscopeCallback(report=arguments.report, run_dir=arguments.run_dir)
    trainer = pl.Trainer(
        max_epochs=5,
        accumulate_grad_batches=2,
        gradient_clip_val=5.0,
        accelerator="cpu",
        callbacks=[watcher],
        logger=pl.loggers.CSVLogger("digits_logs"),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Digits(), data)
    print(f"{watcher.scope.steps} steps, {len(watcher.diagnosis.findings)} findings")


if __name__ == "__main__":
    main()
