"""An Accelerate loop with gradscope as one of its trackers."""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.integrations.accelerate import GradscopeTracker


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="digits_accelerate.html")
    arguments = parser.parse_args()

    set_seed(0)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = DataLoader(TensorDataset(pixels, torch.tensor(digits.target)), 32, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    watcher = GradscopeTracker(model, report=arguments.report, run_dir=arguments.run_dir)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with=[watcher])
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    accelerator.init_trackers("digits")
    for epoch in range(4):
        for x, y in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.log({"loss": loss.item()}, step=epoch)
    accelerator.end_training()
    print(f"{watcher.tracker.steps} steps, {len(watcher.diagnosis.findings)} findings")


if __name__ == "__main__":
    main()
