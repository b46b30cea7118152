"""A small classifier of digits, one of whose ReLU layers is dead from the first step.

The bias of ``fc2`` starts at -4 "for sparse codes". No input lifts any of its units above zero, so
the layers behind see only zeros, and the layers before get no gradient.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 32)
        self.fc4 = nn.Linear(32, 10)
        nn.init.constant_(self.fc2.bias, -4.0)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = F.relu(self.fc3(x))
        return self.fc4(x)


def get_batch():
    chosen = torch.randint(len(inputs), (64,))
    return inputs[chosen], targets[chosen]


loss_fn = nn.CrossEntropyLoss()


def make_optimizer(model):
    return torch.optim.Adam(model.parameters(), lr=2e-3)
