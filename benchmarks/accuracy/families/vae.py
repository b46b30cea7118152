"""Autoencoders, variational and narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates
from benchmarks.accuracy.objectives import SAMPLES, call, output_of, share_removed


class Autoencoder(nn.Module):
    """Gives images back through ``latent`` numbers."""

    def __init__(
        self, size: int, latent: int, activation: type[nn.Module], *, variational: bool
    ) -> None:
        super().__init__()
        self.variational = variational
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 64), activation(), nn.Linear(64, 32), activation()
        )
        self.mean = nn.Linear(32, latent)
        if variational:
            self.spread = nn.Linear(32, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 32), activation(), nn.Linear(32, 64), activation(),
            nn.Linear(64, size),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The images as rows, and mean and log variance of the code if it is variational."""
        hidden = self.encoder(x)
        mean = self.mean(hidden)
        if not self.variational:
            return (self.decoder(mean),)
        log_variance = self.spread(hidden)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


def divergence_weighted(weight: float) -> Callable[[tuple[Tensor, ...], Batch], Tensor]:
    """Squared error and, if the model is variational, ``weight`` times the usual divergence."""

    def criterion(output: tuple[Tensor, ...], batch: Batch) -> Tensor:
        images = batch[0].flatten(1)
        error = functional.mse_loss(output[0], images)
        if len(output) == 1:
            return error
        mean, log_variance = output[1:]
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return error + weight * 0.05 / images.shape[1] * divergence

    return criterion


def _measure(draft: Draft) -> float:
    images = draft.data.x[:SAMPLES].flatten(1)
    restored: Any = output_of(draft)
    error = float(functional.mse_loss(restored[0], images))
    return share_removed(error, float(images.var(0, unbiased=False).mean()))


def _build(variant: str, data: Data) -> Draft:
    size = data.x[0].numel()
    latent, activation = {
        "variational": (8, nn.ReLU),
        "variational-tanh": (8, nn.Tanh),
        "narrow": (2, nn.ReLU),
        "wide": (24, nn.ReLU),
    }[variant]
    model = Autoencoder(size, latent, activation, variational=variant.startswith("variational"))
    return Draft(model, data, call, divergence_weighted(1.0), _measure, optimizer="", lr=1.0)


VAE = Family(
    "vae",
    "tuning",
    {
        "variational": ("digits", "mnist"),
        "variational-tanh": ("digits",),
        "narrow": ("digits", "mnist"),
        "wide": ("digits",),
    },
    rates(1.0, sgd=3.0, momentum=0.5),
    _build,
)
