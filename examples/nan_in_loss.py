"""Siamese digits, whose distance has no derivative at 0.

Pairs of images are drawn at random, so that now and then an image meets itself. Its distance is
exactly 0, the slope of the square root there is infinite, and infinity times 0 is NaN: the loss is
an ordinary number, and after this step every weight is NaN.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16, bias=False))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def batches():
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    while True:
        left, right = torch.randint(len(images), (2, 128))
        yield images[left], images[right], labels[left] == labels[right]


def loss(model, batch):
    left, right, same = batch
    gap = model(left) - model(right)
    distance = torch.sqrt((gap * gap).sum(dim=1))
    apart = torch.relu(2.0 - distance)
    return torch.where(same, distance**2, apart**2).mean()
