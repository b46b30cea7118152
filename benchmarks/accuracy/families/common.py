"""What all families share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from benchmarks.accuracy.cases import Draft
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.objectives import call, criterion_for, measured

RATES = {"sgd": 0.1, "momentum": 0.03, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3}
"""Usual learning rates of small networks; a family or a variant multiplies them."""


def rates(factor: float = 1.0, **own: float) -> dict[str, float]:
    """RATES times ``factor``, with ``own`` ones in place of single ones."""
    return {name: rate * factor for name, rate in RATES.items()} | own


def supervised(
    model: nn.Module,
    data: Data,
    forward: Callable[[nn.Module, Tensor], Tensor] = call,
    *,
    rate: float = 1.0,
    batch: int = 32,
) -> Draft:
    """A draft with the usual loss of the data; ``rate`` multiplies the family's learning rate."""
    return Draft(
        model, data, forward, criterion_for(data), measured, optimizer="", lr=rate, batch=batch
    )


def kaiming(model: nn.Module) -> nn.Module:
    """He initialisation and zero biases in all linear maps and convolutions."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def xavier(model: nn.Module, gain: float = 1.0) -> nn.Module:
    """Glorot initialisation and zero biases in all linear maps."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
