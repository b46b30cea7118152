"""Siamese networks: contrastive learning with a learnt temperature, and triplets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates
from benchmarks.accuracy.objectives import share_removed

_JUDGED = 128


class Siamese(nn.Module):
    """One body for two views of an image, and a temperature."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.temperature = nn.Parameter(torch.tensor(math.log(5.0)))

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors of two noisy views, ``[2, n, size]``."""
        views = torch.stack([x + 0.3 * torch.randn_like(x) for _ in range(2)])
        return functional.normalize(self.body(views.flatten(0, 1)), dim=-1).unflatten(0, (2, -1))


def _body(data: Data, *, convolutional: bool) -> nn.Module:
    if convolutional:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 16),
        )  # fmt: skip
    return nn.Sequential(
        nn.Flatten(), nn.Linear(data.x[0].numel(), 64), nn.ReLU(),
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16),
    )  # fmt: skip


def _forward(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return model(x), model.temperature


def _contrastive(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    (first, second), temperature = output
    scores = first @ second.T * temperature.exp()
    own = torch.arange(len(first))
    return 0.5 * (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own))


def _triplet(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    (first, second), temperature = output
    # the temperature has no part in this loss; its square keeps it where it is
    other = second.roll(1, 0)
    near, far = (first - second).square().sum(1), (first - other).square().sum(1)
    return functional.relu(near - far + 0.5).mean() + 1e-3 * temperature.square()


def _measure(draft: Draft) -> float:
    """Share of log(n) removed when each view is to find its partner among n, at temperature 0.1."""
    training = draft.model.training
    draft.model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = draft.model(draft.data.x[:_JUDGED])
        loss = functional.cross_entropy(first @ second.T * 10, torch.arange(_JUDGED))
    draft.model.train(training)
    return share_removed(float(loss), math.log(_JUDGED))


def _build(variant: str, data: Data) -> Draft:
    model = Siamese(_body(data, convolutional=variant == "conv"))
    criterion = _triplet if variant == "triplet" else _contrastive
    return Draft(model, data, _forward, criterion, _measure, optimizer="", lr=1.0, batch=48)


SIAMESE = Family(
    "siamese",
    "reporting",
    {"maps": ("digits",), "conv": ("digits",), "triplet": ("digits",)},
    rates(),
    _build,
)
