"""Faults of the step: its size, its noise, its number format."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import DoesNotFitError, Draft, Fault
from benchmarks.accuracy.objectives import measured


def other_rate(draft: Draft, level: float) -> None:
    """The learning rate times ``level``."""
    draft.lr *= level


def decaying(draft: Draft, level: float) -> None:
    """A schedule that multiplies the rate by ``level`` in every step."""
    draft.schedule = lambda step: level**step


def long_warm_up(draft: Draft, level: float) -> None:
    """A linear warm-up over ``level`` times the training."""
    draft.schedule = lambda step: min(1.0, (step + 1) / (level * draft.steps))


def tight_clip(draft: Draft, level: float) -> None:
    """Gradients clipped to a norm of ``level``."""
    draft.clip = level


def noisy(draft: Draft, level: float) -> None:
    """Noise of ``level`` times the gradient's own size is added, as private training does."""

    def late(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)

        def add(gradient: Tensor) -> Tensor:
            noise = torch.randn(gradient.shape, generator=generator)
            return gradient + level * gradient.square().mean().sqrt() * noise

        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(add)

    draft.late = late


def small_batch(draft: Draft, level: float) -> None:
    """Batches of ``level`` samples."""
    if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in draft.model.modules()):
        raise DoesNotFitError("batch norm needs a batch")
    draft.batch = int(level)


def low_rate(draft: Draft, level: float) -> None:
    """Small but sufficient steps over twice as many steps: the twin of ``bfloat16-weights``."""
    draft.lr *= level
    draft.steps *= 2


def bfloat16_weights(draft: Draft, level: float) -> None:
    """Weights kept in bfloat16 while steps are small."""
    if draft.measure is not measured:
        raise DoesNotFitError("the task's own losses are in float32")
    low_rate(draft, level)
    draft.model.to(torch.bfloat16)
    inner = draft.forward
    draft.forward = lambda model, x: inner(
        model, x.to(torch.bfloat16) if x.is_floating_point() else x
    ).float()


def tiny_loss(draft: Draft, level: float) -> None:
    """The loss times ``level``: harmless under Adam in float32, the twin of ``float16``."""
    draft.factor = level


def float16(draft: Draft, level: float) -> None:
    """Autocast to float16 without a loss scaler, under a loss times ``level``."""
    draft.factor = level
    half_precision(draft)


def half_precision(draft: Draft) -> None:
    """Forward and loss under autocast to float16."""
    if any(isinstance(m, walk.RECURRENT) for m in draft.model.modules()):
        raise DoesNotFitError("torch has no recurrent layers in float16 on a CPU")
    draft.autocast = torch.float16


_ADAM = ("adam", "adamw")
_GRADIENT = ("sgd", "momentum")

FAULTS: tuple[Fault, ...] = (
    Fault("high-rate", ("GS401", "GS102"), (2, 10, 100, 1000), other_rate),
    Fault("low-rate", ("GS402",), (0.5, 1e-2, 1e-4), other_rate),
    Fault("decaying-rate", ("GS402",), (0.99, 0.8, 0.5), decaying),
    Fault("long-warm-up", ("GS402",), (0.2, 30, 1000), long_warm_up, ("reporting",)),
    Fault("tight-clip", ("GS502",), (5, 0.1, 1e-3), tight_clip, optimizers=_GRADIENT),
    Fault("noisy-gradient", ("GS105",), (0.3, 5, 50), noisy),
    Fault("small-batch", ("GS105", "GS401"), (16, 2, 1), small_batch),
    Fault(
        "bfloat16-weights", ("GS203",), (0.3, 0.1, 0.03), bfloat16_weights,
        optimizers=("sgd", "adam"), twin="slow-steps",
    ),
    Fault("slow-steps", (), (0.3, 0.1), low_rate, optimizers=("sgd", "adam"), alone=True),
    Fault("float16", ("GS202",), (1e-2, 1e-6, 1e-8), float16, optimizers=_ADAM, twin="tiny-loss"),
    Fault("tiny-loss", (), (1e-2, 1e-4, 1e-5), tiny_loss, optimizers=_ADAM),
)  # fmt: skip
