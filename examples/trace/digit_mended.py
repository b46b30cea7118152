"""The same digits read by eight ReLU layers: the gradient arrives, and gradient descent does its
work.

    gradscope trace examples/trace/digit_mended.py --steps 300 --integrated-gradients
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
class_names = [str(digit) for digit in range(10)]

WIDTH, DEPTH = 48, 8

layers = [nn.Linear(64, WIDTH), nn.ReLU()]
for _ in range(DEPTH - 1):
    layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
for layer in model:
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)

criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.003)


def get_batch():
    chosen = torch.randint(len(pixels), (64,))
    return pixels[chosen], labels[chosen]
