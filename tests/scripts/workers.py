"""DataLoader with worker processes that draw random augmentations."""

import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self):
        self.images, self.labels = load_digits(return_X_y=True)

    def __len__(self):
        return 256

    def __getitem__(self, i):
        image = self.images[i].reshape(8, 8) / 16
        image = np.roll(image, random.randint(-1, 1), axis=1)
        image = image + np.random.normal(0, 0.05, image.shape)
        return torch.tensor(image.ravel(), dtype=torch.float32), self.labels[i]


def seed_worker(worker_id):
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def run():
    g = torch.Generator()
    g.manual_seed(0)
    torch.manual_seed(0)
    loader = DataLoader(
        Digits(), 32, shuffle=True, num_workers=2, worker_init_fn=seed_worker, generator=g,
        persistent_workers=True,
    )
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for epoch in range(2):
        for image, label in loader:
            loss = nn.functional.cross_entropy(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())
    torch.save(model.state_dict(), "digits.pt")


if __name__ == "__main__":
    run()
