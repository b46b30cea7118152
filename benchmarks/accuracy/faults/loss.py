"""Faults of what is given to the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import Batch, DoesNotFitError, Draft, Fault
from benchmarks.accuracy.families.mlp import two_losses
from benchmarks.accuracy.families.vae import divergence_weighted
from benchmarks.accuracy.objectives import measured


def _kind(draft: Draft, kind: str) -> None:
    if draft.measure is not measured or draft.data.kind != kind:
        raise DoesNotFitError(f"no loss of {kind}")


def _changed(draft: Draft, change) -> None:
    inner = draft.criterion
    draft.criterion = lambda output, batch: inner(change(output), batch)


def softmax_twice(draft: Draft, level: float) -> None:
    """Before the cross entropy: a log-softmax, which is harmless (0), a softmax (1), two (2)."""
    _kind(draft, "classes")
    if level == 0:
        _changed(draft, lambda output: functional.log_softmax(output, -1))
    for _ in range(int(level)):
        _changed(draft, lambda output: functional.softmax(output, -1))


def softmax_in_model(draft: Draft, level: float) -> None:
    """The model ends in ``level`` softmax layers, under a loss that takes scores."""
    _kind(draft, "classes")
    head = walk.layers(draft.model)[-1]
    ends = [nn.Softmax(-1) for _ in range(int(level))]
    walk.wrap(draft.model, head, lambda inner: nn.Sequential(inner, *ends))
    draft.read = lambda output: output.clamp_min(1e-9).log()


def sigmoid_before_logits(draft: Draft, level: float) -> None:
    """``level`` sigmoids before a loss that takes logits."""
    _kind(draft, "binary")
    for _ in range(int(level)):
        _changed(draft, torch.sigmoid)


def broadcast(draft: Draft, level: float) -> None:
    """Outputs ``[n]`` against targets ``[n, 1]``: every sample against every other."""
    _kind(draft, "values")
    _changed(draft, lambda output: output.squeeze(1))


def scores_as_logarithms(draft: Draft, level: float) -> None:
    """A loss that takes logarithms of probabilities is given scores times ``level``."""
    _kind(draft, "classes")

    def criterion(output: Tensor, batch: Batch) -> Tensor:
        scores = output.reshape(-1, output.shape[-1]) * level
        return functional.nll_loss(scores, batch[1].reshape(-1))

    draft.criterion = criterion


def saturated_loss(draft: Draft, level: float) -> None:
    """Squared error of a sigmoid whose inputs start ``level`` away from zero."""
    _kind(draft, "binary")
    head = draft.model.get_submodule(walk.layers(draft.model)[-1])
    with torch.no_grad():
        head.bias -= level
    draft.criterion = lambda output, batch: functional.mse_loss(torch.sigmoid(output), batch[1])
    draft.at_fault = (walk.layers(draft.model)[-1],)


def drowned_head(draft: Draft, level: float) -> None:
    """One of two losses weighs ``level`` times the other."""
    if not hasattr(draft.model, "ink"):
        raise DoesNotFitError("one head only")
    draft.criterion = two_losses(level)
    draft.at_fault = ("ink", "label")


def posterior_collapse(draft: Draft, level: float) -> None:
    """The divergence of a variational autoencoder weighs ``level`` times too much."""
    if not getattr(draft.model, "variational", False):
        raise DoesNotFitError("not variational")
    draft.criterion = divergence_weighted(level)
    draft.at_fault = ("mean", "spread", "encoder", "decoder")


def no_negatives(draft: Draft, level: float) -> None:
    """A share of ``level`` of a contrastive loss only pulls two views together."""
    inner = draft.criterion

    def criterion(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        first, second = output[0]
        pull = (first - second).square().sum(1).mean()
        return level * pull + (1 - level) * inner(output, batch)

    draft.criterion = criterion


FAULTS: tuple[Fault, ...] = (
    Fault("softmax-twice", ("GS503",), (0, 1, 2), softmax_twice),
    Fault("softmax-in-model", ("GS503",), (1, 2), softmax_in_model),
    Fault("sigmoid-before-logits", ("GS503",), (1, 2), sigmoid_before_logits),
    Fault("broadcast", ("GS503",), (1,), broadcast),
    Fault("scores-as-logarithms", ("GS503",), (1,), scores_as_logarithms, ("reporting",)),
    Fault("saturated-loss", ("GS101", "GS302", "GS503"), (0, 4, 16), saturated_loss),
    Fault("drowned-head", ("GS106",), (2, 100, 1e4), drowned_head),
    Fault(
        "posterior-collapse", ("GS106", "GS303"), (1, 30, 1000), posterior_collapse,
        families=("vae",),
    ),
    Fault("no-negatives", ("GS303",), (0.5, 1.0), no_negatives, families=("siamese",)),
)  # fmt: skip
