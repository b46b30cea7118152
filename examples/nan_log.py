"""Digits with log-energy features, without a floor under the logarithm.

Fifteen of the 1,797 digits have a quadrant without any ink. The first batch that holds one of them
takes log(0), and after that step every weight is NaN.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn


class LogInk(nn.Module):
    """Logarithm of the ink in each of the four quadrants."""

    def forward(self, images):
        quadrants = images.reshape(-1, 2, 4, 2, 4).sum(dim=(2, 4))
        return torch.log(quadrants).flatten(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.ink = LogInk()
        self.body = nn.Sequential(
            nn.Linear(64 + 4, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images):
        return self.body(torch.cat([images.flatten(1), self.ink(images)], dim=1))


model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def batches():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    while True:
        for chosen in torch.randperm(len(images)).split(32):
            yield images[chosen], labels[chosen]


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)
