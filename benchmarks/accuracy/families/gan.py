"""Adversarial networks on the main directions of images; two networks, two losses."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft, Family, Phase
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.objectives import SAMPLES, call

_NOISE = 4
_DIRECTIONS = 3


def _network(sizes: tuple[int, ...], activation: nn.Module) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inward, outward in itertools.pairwise(sizes[:-1]):
        parts += [nn.Linear(inward, outward), type(activation)(0.2)]
    return nn.Sequential(*parts, nn.Linear(sizes[-2], sizes[-1]))


def _distance(a: Tensor, b: Tensor) -> float:
    """Energy distance between two samples."""
    between = torch.cdist(a, b).mean()
    return float(2 * between - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def _measure(draft: Draft) -> float:
    """Share of the energy distance of a constant answer that is removed."""
    real = draft.data.x[:SAMPLES]
    noise = torch.randn(SAMPLES, _NOISE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        fake = draft.model(noise)
    if not bool(torch.isfinite(fake).all()):
        return 0.0
    constant = real.mean(0).expand_as(real)
    return min(1.0, max(0.0, 1 - _distance(fake, real) / _distance(constant, real)))


def _main_directions(data: Data) -> Data:
    flat = data.x.flatten(1)
    flat = flat - flat.mean(0)
    directions = torch.linalg.svd(flat, full_matrices=False).Vh[:_DIRECTIONS]
    x = flat @ directions.T
    return Data(data.name, x / x.std(), data.y, data.kind, data.outputs)


def _build(variant: str, data: Data) -> Draft:
    # leaky units in both, the usual choice since DCGAN (Radford et al. 2016)
    generator = _network((_NOISE, 32, 32, _DIRECTIONS), nn.LeakyReLU())
    critic = _network((_DIRECTIONS, 32, 32, 1), nn.LeakyReLU())
    draft = Draft(
        generator, _main_directions(data), call, lambda output, batch: output.mean(), _measure,
        optimizer="", lr=1.0, batch=64, others={"critic": critic},
    )  # fmt: skip
    # a GAN needs more steps than a classifier before there is anything to measure
    draft.steps = 200

    def fake(batch: Batch) -> Tensor:
        return draft.model(torch.randn(len(batch[0]), _NOISE))

    def logistic_critic(batch: Batch) -> Tensor:
        real, made = critic(batch[0]), critic(fake(batch).detach())
        return functional.softplus(-real).mean() + functional.softplus(made).mean()

    def logistic_generator(batch: Batch) -> Tensor:
        return functional.softplus(-critic(fake(batch))).mean()

    def bce_critic(batch: Batch) -> Tensor:
        real, made = critic(batch[0]), critic(fake(batch).detach())
        loss = functional.binary_cross_entropy_with_logits
        return loss(real, torch.ones_like(real)) + loss(made, torch.zeros_like(made))

    def bce_generator(batch: Batch) -> Tensor:
        made = critic(fake(batch))
        return functional.binary_cross_entropy_with_logits(made, torch.ones_like(made))

    def wasserstein_critic(batch: Batch) -> Tensor:
        made = fake(batch).detach()
        share = torch.rand(len(made), 1)
        mixed = (share * batch[0] + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return critic(made).mean() - critic(batch[0]).mean() + 10 * penalty

    def wasserstein_generator(batch: Batch) -> Tensor:
        return -critic(fake(batch)).mean()

    if variant == "wasserstein":
        draft.lr = 0.3
    losses = {
        "logistic": (logistic_critic, logistic_generator),
        "bce": (bce_critic, bce_generator),
        "wasserstein": (wasserstein_critic, wasserstein_generator),
    }[variant]
    # a Wasserstein critic is trained more often than the generator (Arjovsky et al. 2017)
    critics = 3 if variant == "wasserstein" else 1
    draft.phases = (Phase("critic", losses[0]),) * critics + (Phase("model", losses[1]),)
    return draft


GAN = Family(
    "gan",
    "reporting",
    {"logistic": ("digits",), "bce": ("digits",), "wasserstein": ("digits", "mnist")},
    {"rmsprop": 3e-3, "sgd": 0.2},
    _build,
)
