"""A digit read by eight sigmoid layers: the answer is a guess, and no gradient reaches the input,
even at a learning rate thirty times that of digit_mended.py.

Take one training step of it apart, after some hundred others, with

    gradscope trace examples/trace/digit_sick.py --steps 300 --integrated-gradients
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
class_names = [str(digit) for digit in range(10)]

WIDTH, DEPTH = 48, 8

layers = [nn.Linear(64, WIDTH), nn.Sigmoid()]
for _ in range(DEPTH - 1):
    layers += [nn.Linear(WIDTH, WIDTH), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))

criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def get_batch():
    chosen = torch.randint(len(pixels), (64,))
    return pixels[chosen], labels[chosen]
