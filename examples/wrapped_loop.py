"""An ordinary training script with gradscope around its loop.

It trains a network to tell odd digits from even ones, then gives it a new head for all ten digits
and trains on. The optimizer was made before the new head, so the head never learns; with
``--mended`` the optimizer is made again. Nothing in the loop itself was changed.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(self.trunk(x))


def loader(targets):
    pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    return DataLoader(TensorDataset(pixels, targets), batch_size=64, shuffle=True)


def train(model, optimizer, batches, epochs):
    criterion = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mended", action="store_true", help="make the optimizer again")
    parser.add_argument("--run-dir", help="a new folder for the recording")
    parser.add_argument("--report", default="wrapped_loop.html")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = torch.tensor(load_digits().target)
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, loader(digits % 2), epochs=2)

    model.head = nn.Linear(64, 10)
    if arguments.mended:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.watch(model, run_dir=arguments.run_dir) as scope:
        train(model, optimizer, loader(digits), epochs=8)

    for finding in scope.diagnose():
        print(finding.code, finding.name, finding.severity, finding.summary, sep="  ")
    scope.report(arguments.report)


if __name__ == "__main__":
    main()
