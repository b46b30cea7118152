"""A loss written as arithmetic: the mean or sum of a difference's absolute value or square.

``F.l1_loss`` is such arithmetic, too, in the versions of PyTorch that have no node for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.anatomy.kinds import operation
from gradscope.observe.autograd.loss_terms import source
from gradscope.observe.autograd.step_graph import Edge
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.private import saved

MADE_BY = {"l1": ("abs",), "mse": ("pow", "mul")}
"""Operations that make the loss's elements of the difference, by the loss's name."""
_KEEPS_ORDER = frozenset({
    "view", "reshape", "unsafe_view", "squeeze", "unsqueeze", "clone", "alias", "contiguous",
})  # fmt: skip
"""Operations that give the same numbers in the same order."""


@dataclass(frozen=True)
class Difference:
    """Output − target, as the graph kept it.

    Attributes:
        values: flat, in double precision.
        edge: the output's place in the graph.
    """

    values: Tensor
    edge: Edge


def difference(start: Node, named: str) -> Difference | None:
    """The first difference behind ``start`` whose size a loss called ``named`` measures.

    Args:
        start: the loss's node.
        named: ``l1`` or ``mse``.
    """
    for node, _ in Walk([start], 2_000):
        if operation(node) not in MADE_BY.get(named, ()):
            continue
        below = source(node.next_functions[0][0])
        kept = saved(node, "self")
        if below is None or operation(below) != "sub" or not isinstance(kept, Tensor):
            continue
        if operation(node) == "pow" and saved(node, "exponent") != 2:
            continue
        if operation(node) == "mul" and source(node.next_functions[1][0]) is not below:
            continue
        side = next((i for i, (child, _) in enumerate(below.next_functions) if child), None)
        if side is None:
            continue
        child, output = below.next_functions[side]
        assert child is not None
        values = kept.detach().double().flatten()
        # written as target − output, it is the output's with the other sign
        return Difference(-values if side == 1 else values, (child, output))
    return None


def same_order(above: Node, below: Node) -> bool:
    """Whether what ``above`` gives is what ``below`` gives, its numbers in the same order."""
    node: Node | None = above
    while node is not None and node is not below:
        if operation(node) not in _KEEPS_ORDER:
            return False
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None


def near(left: Tensor, right: Tensor) -> bool:
    """Whether two values of a loss are the same but for rounding."""
    return bool(torch.isclose(left.double(), right.double(), rtol=1e-4, atol=1e-7))
