"""Digits of which three have a pixel that was never measured.

A missing value is NaN in the table, and nobody has looked. Each weight is NaN after the first batch
that holds one of the three.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def batches():
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    images[[300, 900, 1500], 27] = torch.nan  # as a reader of tables fills a gap
    labels = torch.tensor(digits.target)
    while True:
        for chosen in torch.randperm(len(images)).split(32):
            yield images[chosen], labels[chosen]


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)
