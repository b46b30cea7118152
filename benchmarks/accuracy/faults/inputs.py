"""Faults of the data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.accuracy.cases import Batch, DoesNotFitError, Draft, Fault
from benchmarks.accuracy.data import raw_scales
from benchmarks.accuracy.objectives import measured

BAD_STEP = 60
"""Step of a single bad batch."""


def _values(draft: Draft) -> None:
    if not draft.data.x.is_floating_point():
        raise DoesNotFitError("letters have no scale")
    if draft.measure is not measured:
        raise DoesNotFitError("the task measures its inputs")


def scaled_inputs(draft: Draft, level: float) -> None:
    """Inputs times ``level``."""
    _values(draft)
    draft.data = replace(draft.data, x=draft.data.x * level)


def shifted_inputs(draft: Draft, level: float) -> None:
    """``level`` added to all inputs."""
    _values(draft)
    draft.data = replace(draft.data, x=draft.data.x + level)


def raw_inputs(draft: Draft, level: float) -> None:
    """A table as it is in the file, times ``level``."""
    if draft.data.name not in ("wine", "cancer", "diabetes"):
        raise DoesNotFitError("no table")
    mean, spread = raw_scales(draft.data.name)
    draft.data = replace(draft.data, x=(draft.data.x * spread + mean) * level)


def scaled_targets(draft: Draft, level: float) -> None:
    """Targets with a mean and a spread of ``level``."""
    if draft.data.kind != "values" or draft.measure is not measured:
        raise DoesNotFitError("no values to learn")
    draft.data = replace(draft.data, y=draft.data.y * level + level)


def wrong_labels(draft: Draft, level: float) -> None:
    """A share of ``level`` of each batch gets the labels of other samples."""
    if draft.measure is not measured:
        raise DoesNotFitError("no labels")

    def spoil(step: int, batch: Batch) -> Batch:
        x, y = batch
        some = round(level * len(y))
        return x, torch.cat([y[:some].roll(max(1, some // 2), 0), y[some:]])

    draft.spoil = spoil


def bad_batch(draft: Draft, level: float) -> None:
    """One batch whose inputs are ``level`` times too large."""
    _values(draft)

    def spoil(step: int, batch: Batch) -> Batch:
        return (batch[0] * level, batch[1]) if step == BAD_STEP else batch

    draft.spoil = spoil


def not_a_number(draft: Draft, level: float) -> None:
    """One batch in which the first ``level`` samples hold a NaN."""
    _values(draft)

    def spoil(step: int, batch: Batch) -> Batch:
        x: Tensor = batch[0]
        if step == BAD_STEP // 2:
            x = x.clone()
            x[: int(level)].view(int(level), -1)[:, 0] = torch.nan
        return x, batch[1]

    draft.spoil = spoil


FAULTS: tuple[Fault, ...] = (
    Fault("scaled-inputs", ("GS504",), (2, 30, 300), scaled_inputs),
    Fault("shifted-inputs", ("GS504",), (0.5, 10, 100), shifted_inputs),
    Fault("raw-inputs", ("GS504",), (0.01, 1), raw_inputs),
    Fault("scaled-targets", ("GS504",), (2, 30, 1000), scaled_targets),
    Fault("wrong-labels", ("GS505",), (0.1, 0.7, 1), wrong_labels),
    Fault("bad-batch", ("GS103",), (3, 1e3, 1e6), bad_batch),
    Fault("nan-batch", ("GS201",), (1,), not_a_number),
)
