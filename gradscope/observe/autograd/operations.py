"""Names of operations: of autograd nodes, of activations, and of operations without a gradient."""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from gradscope.recording.facts import Activation

_GENERATED = re.compile(r"^(?P<stem>\w+)Backward\d+$")
# a capital starts a new word after a small letter, and after a digit or capital when a small
# letter follows: NllLoss2DBackward0 is nll_loss2d, SmoothL1LossBackward0 is smooth_l1_loss
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])")
_NUMBER = re.compile(r"(?<=[a-z])(?=[0-9])")


@lru_cache(maxsize=4096)
def node_operation(name: str) -> str:
    """ATen name of the forward operation of an autograd node.

    Args:
        name: ``node.name()``, e.g. ``SqrtBackward0``, ``NllLoss2DBackward0``.

    Returns:
        The name without namespace and without a leading underscore (``sqrt``, ``nll_loss2d``,
        ``softmax``); for a custom ``autograd.Function`` the name of its class.
    """
    name = name.rsplit("::", 1)[-1]
    match = _GENERATED.match(name)
    if match:
        return _existing(_WORD.sub("_", match["stem"]).lower())
    if name == "CopyBackwards":
        return "copy"
    if name.endswith("Backward") and name != "Backward":
        return name.removesuffix("Backward")
    return _WORD.sub("_", name).lower()


def _existing(operation: str) -> str:
    """The spelling that ATen knows: the node of ``grid_sampler_2d`` lost its second underscore."""
    spelt = _NUMBER.sub("_", operation)
    known = any(hasattr(torch.ops.aten, prefix + spelt) for prefix in ("", "_"))
    exists = any(hasattr(torch.ops.aten, prefix + operation) for prefix in ("", "_"))
    return spelt if known and not exists else operation


@lru_cache(maxsize=4096)
def aten_operation(name: str) -> str:
    """The same name from an operator's schema name.

    Args:
        name: e.g. ``aten::_softmax``, ``aten::add_``, ``aten::nll_loss_forward``.

    Returns:
        ``softmax``, ``add``, ``nll_loss``: equal to ``node_operation`` of the node it makes.
    """
    return name.rsplit("::", 1)[-1].strip("_").removesuffix("_forward")


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation.RELU,
    "relu6": Activation.HARD,
    "threshold": Activation.RELU,
    "sigmoid": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "gelu": Activation.GELU,
    "silu": Activation.SILU,
    "mish": Activation.SILU,
    "hardswish": Activation.SILU,
    "elu": Activation.ELU,
    "selu": Activation.ELU,
    "celu": Activation.ELU,
    "hardtanh": Activation.HARD,
    "hardsigmoid": Activation.HARD,
    "softplus": Activation.SOFTPLUS,
    "leaky_relu": Activation.LEAKY,
    "prelu": Activation.LEAKY,
    "prelu_kernel": Activation.LEAKY,
    "rrelu": Activation.LEAKY,
    "rrelu_with_noise": Activation.LEAKY,
}
"""Kind of each pointwise activation, by the name of its operation."""

ZERO_GRADIENT = frozenset({"round", "floor", "ceil", "trunc", "sign", "sgn", "bernoulli"})
"""Operations whose derivative is defined as 0: what lies behind them is reached and never moves."""

NO_GRADIENT = frozenset({"not_implemented", "heaviside", "floor_divide"})
"""Operations without a derivative: backward through them raises."""

SHAPE_ONLY = frozenset({
    "view", "unsafe_view", "reshape_alias", "squeeze", "unsqueeze", "transpose", "t", "permute",
    "clone", "alias", "to_copy", "expand", "slice", "as_strided",
})  # fmt: skip
"""Operations that hand on the same numbers (or some of them) in another shape, place or dtype."""
