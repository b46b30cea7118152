"""The number by which a loop divides its loss for gradient accumulation."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.operations import node_operation
from gradscope.observe.private import saved


def divided_by(loss: Tensor) -> float | None:
    """``k`` where a loss was made by ``something / k`` or ``something * (1 / k)``, k above 1.

    A division by 1 around it, as a framework inside a framework makes it, is looked through.

    Returns:
        None where the last operation is another one, or the factor itself learns or has elements.
    """
    node = loss.grad_fn
    while node is not None:
        divisor = _divisor(node)
        if divisor != 1.0:
            return divisor if divisor is not None and divisor > 1 else None
        node = next(n for n, _ in node.next_functions if n is not None)
    return None


def _divisor(node: Node) -> float | None:
    """What one operation divides by; None if it is no division by a number."""
    operation = node_operation(node.name())
    if operation not in ("div", "mul") or sum(n is not None for n, _ in node.next_functions) != 1:
        return None
    factor = saved(node, "other")
    if isinstance(factor, Tensor):
        if factor.dim() or factor.is_meta:
            return None
        factor = factor.item()
    if not isinstance(factor, (int, float)) or not factor > 0:
        return None
    return float(factor) if operation == "div" else 1.0 / factor
