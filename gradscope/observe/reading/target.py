"""Sufficient statistics of a loss's targets, and the loss of the best constant answer to them.

They add up over steps, so the constant answer is the best one for all targets seen so far. All are
0-dim or small tensors on the target's device; nothing is read back to the host here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES_LIMIT = 1_000
"""Classes up to which the mass of each one is counted."""
COLUMNS_LIMIT = 65_536
"""Numbers in one sample's floating target up to which each has its own constant answer."""


@dataclass(frozen=True)
class Target:
    """Targets of one loss operation.

    Attributes:
        count: 0-dim; what the loss's mean divides by: samples (cross-entropy; the sum of the class
            weights where there are any) or elements of one column.
        mass: float64 ``[classes]``: weight of each class in the targets, label smoothing and class
            weights included; for binary targets the weight of "0" and of "1". None for targets
            that are no classes, or for more classes than CLASSES_LIMIT.
        sum: float64 ``[columns]``: sum over the samples of each column of a floating target (one
            column for targets of one axis); None for integer targets.
        sum_sq: the same of the squares.
        self_entropy: 0-dim: sum of t·log t over soft targets; what KL divergence adds to the
            cross-entropy. None elsewhere.
        squared: the loss is the mean squared error, whose best constant answer is the mean.
    """

    count: Tensor
    mass: Tensor | None = None
    sum: Tensor | None = None
    sum_sq: Tensor | None = None
    self_entropy: Tensor | None = None
    squared: bool = False

    def plus(self, other: Target) -> Target:
        """Statistics of both together; what only one of them has is dropped."""
        mine, theirs = (self, other)
        if self.sum is not None and other.sum is not None and self.sum.shape != other.sum.shape:
            mine, theirs = self._one_column(), other._one_column()
        return Target(
            mine.count + theirs.count,
            _add(mine.mass, theirs.mass),
            _add(mine.sum, theirs.sum),
            _add(mine.sum_sq, theirs.sum_sq),
            _add(mine.self_entropy, theirs.self_entropy),
            mine.squared and theirs.squared,
        )

    def baseline(self) -> Tensor | None:
        """Loss, 0-dim, of the best constant answer to these targets; None if it is not known.

        For classes the entropy of their frequencies, for the mean squared error the variance, for
        KL divergence the mean divergence from the mean target.
        """
        if self.mass is not None:
            total = self.mass.sum()
            own = 0.0 if self.self_entropy is None else self.self_entropy
            gain = torch.special.xlogy(self.mass, self.mass / total).sum()
            loss: Tensor = (own - gain) / self.count
            return loss
        if self.squared and self.sum is not None and self.sum_sq is not None:
            mean = self.sum / self.count
            variance = self.sum_sq / self.count - mean.square()
            return variance.clamp(min=0).mean()
        return None

    def mean(self) -> Tensor | None:
        """Mean, 0-dim, of all elements of a floating target; None for classes."""
        return None if self.sum is None else (self.sum / self.count).mean()

    def std(self) -> Tensor | None:
        """Standard deviation, 0-dim, of all elements of a floating target; None for classes."""
        if self.sum is None or self.sum_sq is None:
            return None
        mean = (self.sum / self.count).mean()
        return ((self.sum_sq / self.count).mean() - mean.square()).clamp(min=0).sqrt()

    def _one_column(self) -> Target:
        if self.sum is None or self.sum_sq is None or self.sum.numel() == 1:
            return self
        return Target(
            self.count * self.sum.numel(),
            self.mass,
            self.sum.sum().reshape(1),
            self.sum_sq.sum().reshape(1),
            self.self_entropy,
            self.squared,
        )


def _add(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None or one.shape != other.shape else one + other


def accurate(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, or in float32 on devices that have no float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def class_target(
    labels: Tensor,
    classes: int,
    *,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    smoothing: float = 0.0,
) -> Target:
    """Statistics of integer targets.

    Args:
        labels: class of each sample or position, any shape.
        classes: number of classes.
        ignore_index: label that does not count.
        class_weight: ``[classes]`` or None.
        smoothing: label smoothing, as in ``F.cross_entropy``.

    Returns:
        Statistics whose baseline is the ``F.cross_entropy`` (mean) of the best constant logits.
    """
    flat = labels.reshape(-1)
    kept = (flat != ignore_index) & (flat >= 0) & (flat < classes)
    ones = accurate(kept)
    weight = None if class_weight is None else accurate(class_weight)
    number = ones.sum()
    if classes > CLASSES_LIMIT:
        share = ones if weight is None else ones * weight[flat.clamp(0, classes - 1)]
        return Target(share.sum())
    mass = torch.zeros(classes, dtype=ones.dtype, device=flat.device)
    mass = mass.scatter_add(0, flat.clamp(0, classes - 1), ones)
    mass = mass if weight is None else mass * weight
    count = mass.sum()
    if smoothing:
        spread = number / classes if weight is None else number / classes * weight
        mass = (1 - smoothing) * mass + smoothing * spread
    return Target(count, mass)


def soft_target(
    mass: Tensor, axis: int, *, smoothing: float = 0.0, divergence: bool = False
) -> Target:
    """Statistics of targets that are distributions over classes.

    Args:
        mass: the distributions, class weights multiplied in; classes along ``axis``.
        axis: the axis of the classes.
        smoothing: not yet included label smoothing.
        divergence: the loss is the KL divergence, which the targets' own entropy is part of.
    """
    rows = accurate(mass).movedim(axis, -1)
    classes = rows.shape[-1]
    rows = rows.reshape(-1, classes)
    if smoothing:
        rows = (1 - smoothing) * rows + smoothing / classes
    count = torch.full_like(rows[0, 0], rows.shape[0]) if rows.numel() else rows.sum()
    if classes > CLASSES_LIMIT:
        return Target(count)
    own = torch.special.xlogy(rows, rows).sum() if divergence else None
    return Target(count, rows.sum(0), self_entropy=own)


def binary_target(
    target: Tensor,
    *,
    weight: Tensor | None = None,
    positive_weight: Tensor | None = None,
    kept: Tensor | None = None,
) -> Target:
    """Statistics of targets in [0, 1], each element a question of its own.

    Args:
        target: any shape.
        weight: weight of each element, broadcastable to ``target``, or None.
        positive_weight: weight of the positive answer, broadcastable to ``target``, or None.
        kept: which elements count, same shape; None: all.
    """
    t = accurate(target)
    one_weight = torch.ones_like(t) if kept is None else accurate(kept)
    moments = t * one_weight
    number = one_weight.sum()
    if weight is not None:
        one_weight = one_weight * accurate(weight)
    zero, one = (1 - t) * one_weight, t * one_weight
    if positive_weight is not None:
        one = one * accurate(positive_weight)
    return Target(
        number,
        torch.stack((zero.sum(), one.sum())),
        moments.sum().reshape(1),
        (moments * t).sum().reshape(1),
    )


def float_target(target: Tensor, *, squared: bool = False, kept: Tensor | None = None) -> Target:
    """Statistics of floating targets, samples along axis 0.

    Args:
        target: any shape.
        squared: the loss is the mean squared error.
        kept: which elements count, same shape (then all elements make one column); None: all.
    """
    t = accurate(target)
    if kept is not None:
        ones = accurate(kept)
        moments = t * ones
        total, squares = moments.sum(), (moments * t).sum()
        return Target(ones.sum(), None, total.reshape(1), squares.reshape(1), squared=squared)
    columns = t[0].numel() if t.dim() > 1 and len(t) else 1
    wide = columns > COLUMNS_LIMIT
    rows = t.reshape(-1, 1 if wide else max(columns, 1))
    count = torch.full_like(rows.sum(), rows.shape[0])
    # one constant for all columns would be a weaker answer than the best one
    return Target(count, None, rows.sum(0), rows.square().sum(0), squared=squared and not wide)
