"""An autoencoder of digits, trained on one fixed batch and without labels: healthy."""

import torch
from sklearn.datasets import load_digits
from torch import nn

model = nn.Sequential(
    nn.Linear(64, 48),
    nn.GELU(),
    nn.Linear(48, 12),
    nn.Tanh(),
    nn.Linear(12, 48),
    nn.GELU(),
    nn.Linear(48, 64),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

batch = torch.tensor(load_digits().data, dtype=torch.float32)[:512] / 16


def loss(model, batch):
    return nn.functional.mse_loss(model(batch), batch)
