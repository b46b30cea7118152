"""Pointwise activations: which class is which kind, and the slope of each kind.

A slope is relative to the activation's largest one, so 1 is "passes the gradient on fully" and 0 is
"flat". A unit is active where its slope is at least ``ACTIVE_SLOPE``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe.autograd.operations import ACTIVATIONS, node_operation
from gradscope.recording.facts import Activation

ACTIVE_SLOPE = 0.05
"""Below it a unit passes on next to nothing: right for gelu, whose slope at -3 is 0.012, as for
relu, whose slope is 0 or 1 (measured on small trainings, docs/why/signals.md)."""

_KINDS: tuple[tuple[Activation, tuple[type[nn.Module], ...]], ...] = (
    (Activation.LEAKY, (nn.LeakyReLU, nn.PReLU, nn.RReLU)),
    (Activation.RELU, (nn.ReLU, nn.Threshold)),
    (Activation.HARD, (nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6)),
    (Activation.SIGMOID, (nn.Sigmoid, nn.LogSigmoid)),
    (Activation.TANH, (nn.Tanh, nn.Softsign)),
    (Activation.GELU, (nn.GELU,)),
    (Activation.SILU, (nn.SiLU, nn.Mish, nn.Hardswish)),
    (Activation.ELU, (nn.ELU, nn.SELU, nn.CELU)),
    (Activation.SOFTPLUS, (nn.Softplus,)),
)


def module_kind(module: nn.Module) -> Activation | None:
    """The kind of an activation module, UNKNOWN for one that has no slope here, None for others."""
    for kind, classes in _KINDS:
        if isinstance(module, classes):
            return kind
    return None


def node_kind(name: str) -> Activation | None:
    """The kind of the activation that made an autograd node called ``name``, None for others."""
    return ACTIVATIONS.get(node_operation(name))


def slope_from_input(
    kind: Activation, x: Tensor, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Tensor | None:
    """Relative slope of the activation at its input ``x``, same shape; None if it is not known.

    Args:
        kind: the activation.
        x: its input.
        bounds: for HARD the range outside which it is flat.
    """
    if kind is Activation.HARD:
        return ((x > bounds[0]) & (x < bounds[1])).to(x.dtype)
    formula = _SLOPES.get(kind)
    return None if formula is None else formula(x)


def slope_from_output(kind: Activation, y: Tensor) -> Tensor | None:
    """Relative slope from the activation's output ``y``, for the kinds where that is enough."""
    if kind is Activation.RELU:
        return (y > 0).to(y.dtype)
    if kind is Activation.SIGMOID:
        return 4 * y * (1 - y)
    if kind is Activation.TANH:
        return 1 - y * y
    return None


def bounds_of(module: nn.Module) -> tuple[float, float]:
    """Range of a HARD activation module outside which it is flat; (-1, 1) for others."""
    if isinstance(module, nn.Hardsigmoid):
        return -3.0, 3.0
    return float(getattr(module, "min_val", -1.0)), float(getattr(module, "max_val", 1.0))


def bounds_of_node(node: Any) -> tuple[float, float]:
    """The same from the autograd node of a functional activation."""
    if node.name().startswith("Hardsigmoid"):
        return -3.0, 3.0
    return float(getattr(node, "_saved_min_val", -1.0)), float(getattr(node, "_saved_max_val", 1.0))


def _gelu(x: Tensor) -> Tensor:
    # d/dx x*Phi(x) = Phi(x) + x*phi(x); its largest value 1.1289 stands at sqrt(2)
    cdf = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return (cdf + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)).abs() / 1.1289


def _silu(x: Tensor) -> Tensor:
    # d/dx x*s(x) = s + x*s*(1-s); its largest value is 1.0998
    s = torch.sigmoid(x)
    return (s * (1 + x * (1 - s))).abs() / 1.0998


_SLOPES: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.RELU: lambda x: (x > 0).to(x.dtype),
    Activation.LEAKY: torch.ones_like,
    Activation.SIGMOID: lambda x: 4 * torch.sigmoid(x) * torch.sigmoid(-x),
    Activation.TANH: lambda x: 1 - torch.tanh(x).square(),
    Activation.GELU: _gelu,
    Activation.SILU: _silu,
    Activation.ELU: lambda x: torch.exp(x.clamp(max=0)),
    Activation.SOFTPLUS: torch.sigmoid,
}
