"""Operations that make a NaN or an Inf, or a gradient that is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.accuracy import walk
from benchmarks.accuracy.cases import Batch, DoesNotFitError, Draft, Fault
from benchmarks.accuracy.objectives import measured


class Logarithm(nn.Module):
    """``log(relu(x) + eps)``; -Inf where a unit is off and eps is 0."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm."""
        return torch.log(torch.relu(x) + self.eps)


class Root(Logarithm):
    """``sqrt(relu(x) + eps)``, whose gradient is not finite at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """The root."""
        return torch.sqrt(torch.relu(x) + self.eps)


class Normalised(Logarithm):
    """``x / sqrt(sum(x^2) + eps)`` of rectified rows, 0 / 0 for a row of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """The rows, of norm one."""
        x = torch.relu(x - x.mean(-1, keepdim=True) - x.std(-1, keepdim=True) * 2)
        return x / torch.sqrt((x * x).sum(-1, keepdim=True) + self.eps)


class Power(Logarithm):
    """``(x + eps) ** 0.5`` of values below zero."""

    def forward(self, x: Tensor) -> Tensor:
        """The power."""
        return (x + self.eps * 100) ** 0.5


def inserted(kind: type[Logarithm]):
    """``kind`` behind a map in the middle; ``level`` is its eps."""

    def apply(draft: Draft, level: float) -> None:
        name = walk.middle(walk.maps(draft.model)[:-1])
        walk.wrap(draft.model, name, lambda inner: nn.Sequential(inner, kind(level)))
        draft.at_fault = (f"{name}.1",)

    return apply


def own_softmax(draft: Draft, level: float) -> None:
    """A cross entropy by hand, of scores times ``level``: it overflows for large scores."""
    if draft.measure is not measured or draft.data.kind != "classes":
        raise DoesNotFitError("no classes")

    def criterion(output: Tensor, batch: Batch) -> Tensor:
        scores = output.reshape(-1, output.shape[-1]) * level
        powers = scores.exp()
        shares = powers / powers.sum(-1, keepdim=True)
        return -shares.log().gather(1, batch[1].reshape(-1, 1)).mean() / level

    draft.criterion = criterion


FAULTS: tuple[Fault, ...] = (
    Fault("logarithm", ("GS201",), (1.0, 0.0), inserted(Logarithm)),
    Fault("root", ("GS201",), (1e-2, 0.0), inserted(Root)),
    Fault("normalised", ("GS201",), (1e-3, 0.0), inserted(Normalised), ("reporting",)),
    Fault("power", ("GS201",), (1.0, 0.0), inserted(Power), ("reporting",)),
    Fault("own-softmax", ("GS201",), (1, 100), own_softmax),
)
