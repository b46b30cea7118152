"""What theory says of gradient × input: of a piecewise linear network it adds up to the score.

Where every operation is linear or linear in pieces through the origin (relu, max-pooling …), the
network is, around one input x, an affine function: score = ⟨gradient, x⟩ + what the biases add
(Euler's theorem for functions of degree 1). A bias b adds ⟨b, gradient at its layer's output⟩, a
batch norm in evaluation the same with its shift β − γ·μ/√(σ² + ε).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from gradscope.anatomy.kinds import operation, shape_only
from gradscope.anatomy.paths import Paths
from gradscope.observe.autograd.operations import ACTIVATIONS
from gradscope.observe.autograd.step_graph import Call, ForwardWatch, NodeGradients
from gradscope.recording.facts import Activation

LINEAR = frozenset({
    "add", "sub", "neg", "sum", "mean", "cat", "stack", "index", "slice", "select", "split",
    "split_with_sizes", "unbind", "convolution", "addmm", "mm", "linear", "embedding",
    "native_batch_norm",
    "cudnn_batch_norm", "max_pool2d_with_indices", "max_pool1d_with_indices",
    "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d", "max", "amax", "abs",
    "constant_pad_nd", "upsample_nearest2d", "mkldnn_convolution", "max_pool2d", "flatten",
    "copy", "squeeze", "narrow", "repeat", "index_select", "gather", "tile", "flip", "roll",
    "mul", "div", "matmul", "bmm", "mv", "input",
})  # fmt: skip
"""Operations that are linear, or linear in pieces through the origin, in one data input."""
_ONE_INPUT = frozenset({"mul", "div", "mm", "bmm", "matmul", "addmm", "mv"})


def piecewise_linear(found: Paths, training: bool) -> bool:
    """Whether everything on the ways from the scores to the input is linear in pieces.

    Args:
        found: the ways.
        training: batch norms use the batch's own statistics, which are no linear function.
    """
    for node in found.order:
        name = operation(node)
        if ACTIVATIONS.get(name) in (Activation.RELU, Activation.LEAKY) and name != "threshold":
            continue
        if name not in LINEAR and not shape_only(node):
            return False
        # a product of two things that both depend on the input is no linear function
        if name in _ONE_INPUT and len(found.ways[node]) > 1:
            return False
        if training and "batch_norm" in name:
            return False
    return bool(found.order)


def carriers(watch: ForwardWatch) -> list[Call]:
    """Calls of layers that add a bias or a shift of their own."""
    return [
        call
        for call in watch.calls
        if isinstance(call.module, nn.Linear | _ConvNd | _BatchNorm) and call.edges
    ]


@torch.no_grad()
def bias_sum(watch: ForwardWatch, seen: Mapping[Node, NodeGradients]) -> float:
    """What all biases and shifts add to the score, given the score's gradients at their outputs."""
    total = 0.0
    for call in carriers(watch):
        edge = call.edges[0]
        if edge is None or edge[0] not in seen or len(seen[edge[0]].outputs) <= edge[1]:
            continue
        gradient = seen[edge[0]].outputs[edge[1]]
        shift = _shift(call.module)
        if gradient is None or shift is None:
            continue
        axis = gradient.dim() - 1 if isinstance(call.module, nn.Linear) else _axis(call, gradient)
        shape = [1] * gradient.dim()
        shape[axis] = -1
        total += float((gradient.double() * shift.double().reshape(shape)).sum())
    return total


def _axis(call: Call, gradient: Tensor) -> int:
    if isinstance(call.module, _ConvNd):
        return gradient.dim() - len(call.module.kernel_size) - 1
    return 1


def _shift(module: nn.Module) -> Tensor | None:
    if not isinstance(module, _BatchNorm):
        bias = getattr(module, "bias", None)
        return bias if isinstance(bias, Tensor) else None
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + module.eps)
    if module.weight is not None:
        scale = scale * module.weight.double()
    shift = -mean.double() * scale
    return shift if module.bias is None else shift + module.bias.double()


def agrees(product_sum: float, biases: float, score: float) -> bool:
    """Whether gradient × input and the biases add up to the score, up to rounding."""
    size = max(abs(score), abs(product_sum), abs(biases), 1e-30)
    return not math.isnan(biases) and abs(product_sum + biases - score) <= 1e-3 * size
