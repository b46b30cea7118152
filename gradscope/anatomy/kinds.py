"""What a node of the graph does: weights, activations, or something else."""

from __future__ import annotations

from collections.abc import Sequence

from torch.autograd.graph import Node

from gradscope.anatomy.facts import Kind
from gradscope.anatomy.paths import Paths
from gradscope.observe.autograd.operations import ACTIVATIONS, SHAPE_ONLY, node_operation

WEIGHTS = frozenset({
    "addmm", "mm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear", "convolution",
    "mkldnn_convolution", "cudnn_convolution", "slow_conv2d", "embedding", "embedding_bag",
    "addmm_activation", "squeeze_mm",
})  # fmt: skip
"""Operations that multiply by a matrix; it is a weight's where one side is no data."""
_SHAPE = SHAPE_ONLY | {"reshape", "unbind", "select", "clone"}


def operation(node: Node) -> str:
    """ATen name of the operation that made a node; ``input`` for a leaf."""
    name = node_operation(node.name())
    return "input" if type(node).__name__ == "AccumulateGrad" else name


def shape_only(node: Node) -> bool:
    """Whether a node hands on the same numbers in another shape."""
    return operation(node) in _SHAPE or type(node).__name__ == "AccumulateGrad"


def is_weight(node: Node, found: Paths) -> bool:
    """Whether a node multiplies data by a weight: one side of the product is no data."""
    if operation(node) not in WEIGHTS:
        return False
    data = {way.index for way in found.ways.get(node, ())}
    return len(data) < len(node.next_functions)


def kind_of(nodes: Sequence[Node], found: Paths) -> Kind:
    """The kind of a factor that consists of some nodes.

    Several nodes between two cuts are a branch: with weights in it the product cannot be split.
    """
    weights = [node for node in nodes if is_weight(node, found)]
    if weights:
        return "weight" if len(nodes) == 1 else "block"
    if any(operation(node) in ACTIVATIONS for node in nodes):
        return "activation"
    return "other" if len(nodes) == 1 or not _many_products(nodes) else "block"


def _many_products(nodes: Sequence[Node]) -> bool:
    return any(operation(node) in WEIGHTS for node in nodes)
