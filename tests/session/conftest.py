"""A model with its data, in an empty working directory."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn


@dataclass
class Training:
    """A loop as a user writes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def steps(self, count: int) -> list[float]:
        losses = []
        for step in range(count):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(16, 20, generator=generator)
            y = x[:, :5].argmax(1)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def steps_then(self, error: BaseException) -> None:
        """Some steps, and a failure."""
        self.steps(4)
        raise error


def made(*, held: slice = slice(None)) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 5))
    return Training(model, torch.optim.Adam(list(model.parameters())[held], lr=1e-2))


@pytest.fixture
def training(tmp_path, monkeypatch) -> Training:
    monkeypatch.chdir(tmp_path)
    return made()


@pytest.fixture
def forgetful(tmp_path, monkeypatch) -> Training:
    """The last layer is missing from the optimizer: GS403."""
    monkeypatch.chdir(tmp_path)
    return made(held=slice(2))


@pytest.fixture
def make():
    """A new training of the same beginning at each call."""
    return made
