"""What a search for losses in a graph finds: the facts of one loss and the way to its node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.operations import SHAPE_ONLY, node_operation
from gradscope.observe.private import saved
from gradscope.observe.reading.target import Target


@dataclass(frozen=True)
class LossFacts:
    """One loss operation.

    Attributes:
        operation: see ``facts.LOSSES``.
        value: 0-dim, detached: the operation's own mean, as ``F.<operation>`` with
            ``reduction="mean"`` gives it (KL divergence: ``"batchmean"``), free of what stands
            around it; elements that are multiplied by 0 do not count. None: not known.
        reduction: ``mean``, ``sum``, ``none``, or None.
        input_operation: name of the node that made the loss's input, views and copies looked
            through, e.g. ``SoftmaxBackward0``; None: not known.
        input_nodes: sequence numbers of the nodes from the loss's input back to that node.
        input_shape: shape of the loss's input, before broadcasting; None: not known.
        target_shape: shape of the target, axes of broadcasting as 1; None: not known.
        element_shape: shape of the unreduced loss of predictions and targets of one kind, after
            broadcasting; None: not known.
        classes: number of classes, or None.
        target: statistics of the target, whose ``baseline()`` is comparable with ``value``; None
            if the graph did not save the target.
    """

    operation: str
    value: Tensor | None = None
    reduction: str | None = None
    input_operation: str | None = None
    input_nodes: tuple[int, ...] = ()
    input_shape: tuple[int, ...] | None = None
    target_shape: tuple[int, ...] | None = None
    element_shape: tuple[int, ...] | None = None
    classes: int | None = None
    target: Target | None = None


@dataclass(frozen=True)
class Path:
    """What stands between the tensor that backward starts from and a node.

    Attributes:
        reduction: nearest reduction above the node.
        scale: product of the numbers that the term is multiplied by.
        weights: constant tensors of more than one element that it is multiplied by.
        subtracted: it is subtracted from a constant tensor.
    """

    reduction: str | None = None
    scale: float = 1.0
    weights: tuple[Tensor, ...] = ()
    subtracted: bool = False

    def through(self, node: Node, operation: str) -> Path:
        """The path on the other side of a node of arithmetic."""
        if operation in ("mean", "sum", "nansum"):
            return replace(self, reduction="mean" if operation == "mean" else "sum")
        if operation in ("mul", "div"):
            other = saved(node, "other")
            if isinstance(other, (int, float)) and other:
                factor = float(other) if operation == "mul" else 1 / float(other)
                return replace(self, scale=self.scale * factor)
            constant = saved(node, "self") if edge(node, 0) is None else other
            if operation == "mul" and isinstance(constant, Tensor) and constant.numel() > 1:
                return replace(self, weights=(*self.weights, constant))
        if operation == "sub" and edge(node, 0) is None:
            return replace(self, subtracted=True)
        return self

    def kept(self, shape: torch.Size) -> Tensor | None:
        """Which elements of an unreduced loss are not multiplied by 0; None: all count."""
        masks = [weight != 0 for weight in self.weights if weight.shape == shape]
        return None if not masks else torch.stack(masks).all(0)


@dataclass(frozen=True)
class Found:
    """A match, with what is needed to put the two halves of a label-smoothed loss together.

    Attributes:
        facts: the facts.
        scale: product of the numbers that this term is multiplied by.
        log_softmax: the log_softmax node that it reads, or None.
        even: it is a sum of the negative log-probabilities over all classes, without a target.
        smoothed: gives the facts for a label smoothing; only of a hard cross-entropy.
    """

    facts: LossFacts
    scale: float = 1.0
    log_softmax: Node | None = None
    even: bool = False
    smoothed: Callable[[float], LossFacts] | None = None


def edge(node: Node, index: int) -> Node | None:
    """The node that made a node's input, or None."""
    edges = node.next_functions
    return edges[index][0] if index < len(edges) else None


def source(node: Node | None) -> Node | None:
    """The first node, from ``node`` on, that does more than reshape or copy."""
    way = way_to_source(node)
    return way[-1] if way else None


def way_to_source(node: Node | None) -> list[Node]:
    """The nodes from ``node`` to its ``source``; empty where there is none."""
    way: list[Node] = []
    while node is not None:
        way.append(node)
        if node_operation(node.name()) not in SHAPE_ONLY:
            return way
        node = edge(node, 0)
    return []


def is_operation(node: Node | None, operation: str) -> bool:
    """Whether a node is that of a certain operation."""
    return node is not None and node_operation(node.name()) == operation
