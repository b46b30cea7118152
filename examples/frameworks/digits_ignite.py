"""A PyTorch-Ignite training under plain `gradscope.watch`."""

import argparse

import torch
from ignite.engine import Engine
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="digits_ignite.html")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = DataLoader(TensorDataset(pixels, torch.tensor(digits.target)), 64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def update(engine, batch):
        x, y = batch
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    with gradscope.watch(model, run_dir=arguments.run_dir) as scope:
        Engine(update).run(data, max_epochs=4)
    scope.report(arguments.report)
    print(f"{scope.steps} steps, {len(scope.diagnose())} findings")


if __name__ == "__main__":
    main()
