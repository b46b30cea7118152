"""Losses, and the share of the trivial loss that a model has removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft
from benchmarks.accuracy.data import Data

SAMPLES = 512
"""Samples on which a model is judged, the first ones of the shuffled data set."""


def call(model: nn.Module, x: Tensor) -> Any:
    """The usual forward pass."""
    return model(x)


def criterion_for(data: Data) -> Callable[[Any, Batch], Tensor]:
    """The usual loss of ``data``, as modules of torch.nn."""
    module: nn.Module = {
        "classes": nn.CrossEntropyLoss,
        "values": nn.MSELoss,
        "binary": nn.BCEWithLogitsLoss,
    }[data.kind]()
    if data.name == "text":
        return lambda output, batch: module(output.flatten(0, 1), batch[1].flatten())
    return lambda output, batch: module(output, batch[1])


def functional_criterion_for(data: Data) -> Callable[[Any, Batch], Tensor]:
    """The same loss written with torch.nn.functional."""
    return {
        "classes": lambda output, batch: functional.cross_entropy(
            output.reshape(-1, output.shape[-1]), batch[1].reshape(-1)
        ),
        "values": lambda output, batch: functional.mse_loss(output, batch[1]),
        "binary": lambda output, batch: functional.binary_cross_entropy_with_logits(
            output, batch[1]
        ),
    }[data.kind]


def trivial(data: Data) -> float:
    """Loss of the best constant answer on the samples that judge."""
    y = data.y[:SAMPLES]
    if data.kind == "classes":
        shares = torch.bincount(y.flatten(), minlength=data.outputs) / y.numel()
        return float(-(shares * shares.clamp_min(1e-12).log()).sum())
    if data.kind == "binary":
        share = float(y.mean())
        return -(share * math.log(share) + (1 - share) * math.log(1 - share))
    return float(y.var(0, unbiased=False).mean())


def share_removed(loss: float, trivial_loss: float) -> float:
    """``1 - loss / trivial``, from 0 to 1; 0 for a loss that is not finite."""
    if not math.isfinite(loss):
        return 0.0
    return min(1.0, max(0.0, 1 - loss / trivial_loss))


def measured(draft: Draft) -> float:
    """Share of the trivial loss that the usual loss of the data says is removed."""
    output = output_of(draft).float()
    clean = functional_criterion_for(draft.data)
    loss = float(clean(output, (draft.data.x[:SAMPLES], draft.data.y[:SAMPLES])))
    return share_removed(loss, trivial(draft.data))


def output_of(draft: Draft) -> Any:
    """Output on the samples that judge, in evaluation mode and without gradients."""
    training = draft.model.training
    draft.model.eval()
    try:
        with torch.no_grad():
            return draft.read(draft.forward(draft.model, draft.data.x[:SAMPLES]))
    finally:
        draft.model.train(training)
