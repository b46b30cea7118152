"""Healthy trainings that look sick to a simple rule; none of them may raise an alarm."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import Batch, DoesNotFitError, Draft, Fault
from benchmarks.accuracy.faults.updates import half_precision
from benchmarks.accuracy.loops import OPTIMIZERS
from benchmarks.accuracy.objectives import measured


def large_loss(draft: Draft, level: float) -> None:
    """A loss times ``level`` under an optimizer that divides it away."""
    draft.factor = level


def frozen_body(draft: Draft, level: float) -> None:
    """Only the last ``level`` layers are trained, on purpose."""
    names = walk.layers(draft.model)
    if len(names) < 3:
        raise DoesNotFitError("too shallow")
    draft.model.requires_grad_(False)
    for name in names[-int(level) :]:
        draft.model.get_submodule(name).requires_grad_(True)


def zero_head(draft: Draft, level: float) -> None:
    """The head starts at zero."""
    head = draft.model.get_submodule(walk.layers(draft.model)[-1])
    others = (m for m in draft.model.modules() if m is not head)
    if any(getattr(m, "weight", None) is head.weight for m in others):
        raise DoesNotFitError("the head's weight is also the embedding's")
    nn.init.zeros_(head.weight)


def converged(draft: Draft, level: float) -> None:
    """The training starts where one of ``level`` times its length ended, at a tenth of the rate."""
    if draft.measure is not measured:
        raise DoesNotFitError("no plain loss")

    def before(draft: Draft) -> None:
        optimizer = OPTIMIZERS["adam"](draft.parameters(draft.model), lr=2e-3)
        batches = draft.batches(7)
        for _ in range(int(level * draft.steps)):
            batch = next(batches)
            optimizer.zero_grad()
            draft.criterion(draft.forward(draft.model, batch[0]), batch).backward()
            optimizer.step()
        optimizer.zero_grad()
        draft.lr *= 0.1

    draft.before = before


def large_targets(draft: Draft, level: float) -> None:
    """Targets of size ``level`` that train well: the model scales its output by the same."""
    if draft.data.kind != "values" or draft.measure is not measured:
        raise DoesNotFitError("no values to learn")
    draft.data = replace(draft.data, y=draft.data.y * level)
    inner = draft.forward
    draft.forward = lambda model, x: inner(model, x) * level
    if draft.optimizer in ("sgd", "momentum"):
        draft.lr /= level**2


def warm_up(draft: Draft, level: float) -> None:
    """A linear warm-up from zero over ``level`` of the training."""
    draft.schedule = lambda step: min(1.0, step / (level * draft.steps))


def cosine(draft: Draft, level: float) -> None:
    """A schedule that ends at zero."""
    draft.schedule = lambda step: 0.5 * (1 + math.cos(math.pi * step / draft.steps))


def tiny_batches(draft: Draft, level: float) -> None:
    """Batches of ``level`` samples at a third of the rate, for three times as long."""
    if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in draft.model.modules()):
        raise DoesNotFitError("batch norm needs a batch")
    draft.batch = int(level)
    draft.lr *= 0.3
    draft.steps *= 3


class Rescaled(nn.Module):
    """A map with weights ``scale`` times too large and an output divided by it."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        with torch.no_grad():
            for parameter in inner.parameters():
                parameter *= scale

    def forward(self, x: Tensor) -> Tensor:
        """The output of the ordinary map."""
        return self.inner(x) / self.scale


def mixed_scales(draft: Draft, level: float) -> None:
    """Every second map holds weights ``level`` times larger than it uses."""
    names = walk.maps(draft.model)[:-1]
    if len(names) < 2:
        raise DoesNotFitError("too shallow")
    for name in names[1::2]:
        walk.wrap(draft.model, name, lambda inner: Rescaled(inner, level))


def second_derivatives(draft: Draft, level: float) -> None:
    """The loss holds ``level`` times the squared gradient at the inputs."""
    if not draft.data.x.is_floating_point() or draft.measure is not measured:
        raise DoesNotFitError("no gradient at the inputs")
    if any(isinstance(m, walk.RECURRENT) for m in draft.model.modules()):
        raise DoesNotFitError("recurrent modules have no second derivative in every version")

    def penalty(model: nn.Module, batch: Batch) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            draft.forward(model, x).square().mean(), x, create_graph=True
        )
        return level * gradient.square().flatten(1).sum(1).mean()

    draft.penalty = penalty


def clipped_spikes(draft: Draft, level: float) -> None:
    """Two batches are ``level`` times too large, and clipping takes care of them."""
    if not draft.data.x.is_floating_point() or draft.measure is not measured:
        raise DoesNotFitError("no inputs to scale")
    draft.clip = 2.0

    def spoil(step: int, batch: Batch) -> Batch:
        return (batch[0] * level, batch[1]) if step in (35, 62) else batch

    draft.spoil = spoil


def generous_clip(draft: Draft, level: float) -> None:
    """Clipping to ``level``, which seldom binds or costs nothing."""
    draft.clip = level


def bfloat16_autocast(draft: Draft, level: float) -> None:
    """Forward and loss under autocast to bfloat16."""
    draft.autocast = torch.bfloat16


def float16_scaler(draft: Draft, level: float) -> None:
    """Autocast to float16 with a loss scaler that starts too high and skips its first steps."""
    half_precision(draft)
    draft.scaler = float(2**level)


def head_in_some_steps(draft: Draft, level: float) -> None:
    """The second head is trained in every ``level``-th step only."""
    if not hasattr(draft.model, "ink"):
        raise DoesNotFitError("one head only")
    inner, steps = draft.criterion, count()

    def criterion(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        if next(steps) % int(level) == 0:
            return inner(output, batch)
        return functional.cross_entropy(output[0], batch[1])

    draft.criterion = criterion


def unused_head(draft: Draft, level: float) -> None:
    """A small head that is never called."""
    if isinstance(draft.model, nn.Sequential):
        raise DoesNotFitError("all parts of a Sequential are called")
    draft.model.spare = nn.Linear(4, int(level))


def noisy_targets(draft: Draft, level: float) -> None:
    """Targets with noise of ``level`` times their spread: most of the loss cannot be removed."""
    if draft.data.kind != "values" or draft.measure is not measured:
        raise DoesNotFitError("no values to learn")

    def spoil(step: int, batch: Batch) -> Batch:
        generator = torch.Generator().manual_seed(step)
        return batch[0], batch[1] + level * torch.randn(batch[1].shape, generator=generator)

    draft.spoil = spoil


def smoothed_labels(draft: Draft, level: float) -> None:
    """Cross entropy with label smoothing of ``level``."""
    if draft.data.kind != "classes" or draft.measure is not measured:
        raise DoesNotFitError("no classes")
    draft.criterion = lambda output, batch: functional.cross_entropy(
        output.reshape(-1, output.shape[-1]), batch[1].reshape(-1), label_smoothing=level
    )


_ADAM = ("adam", "adamw")

LOOKALIKES: tuple[Fault, ...] = (
    Fault("large-loss", (), (100, 1e4), large_loss, optimizers=_ADAM),
    Fault("frozen-body", (), (1, 2), frozen_body, alone=True),
    Fault("zero-head", (), (1,), zero_head),
    Fault("converged", (), (4,), converged, alone=True),
    Fault("large-targets", (), (30, 1000), large_targets),
    Fault("warm-up", (), (0.3,), warm_up),
    Fault("cosine", (), (1,), cosine),
    Fault("tiny-batches", (), (4,), tiny_batches),
    Fault("mixed-scales", (), (30,), mixed_scales, optimizers=_ADAM),
    Fault("second-derivatives", (), (0.01,), second_derivatives),
    Fault("clipped-spikes", (), (20,), clipped_spikes),
    Fault("generous-clip", (), (1, 5), generous_clip),
    Fault("bfloat16-autocast", (), (1,), bfloat16_autocast),
    Fault("float16-scaler", (), (20,), float16_scaler, loops=("plain",)),
    Fault("head-in-some-steps", (), (3,), head_in_some_steps),
    Fault("unused-head", (), (4,), unused_head),
    Fault("noisy-targets", (), (1,), noisy_targets),
    Fault("smoothed-labels", (), (0.1,), smoothed_labels),
)
"""``slow-steps``, ``tiny-loss`` and ``clipped`` stand beside the faults whose twins they are."""
