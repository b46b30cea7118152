"""Which loss operations stand at the end of a graph, and what their saved tensors tell.

The walk starts at the tensor that backward is called on and goes through the arithmetic around
losses: scaling, sums of terms, means of unreduced losses, copies. What it stops at is matched with
the losses of ``torch.nn.functional``, which are single nodes or small patterns of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.loss_patterns import MATCHERS, Found, Path, edge
from gradscope.observe.operations import node_operation
from gradscope.observe.private import saved
from gradscope.observe.target import Target

TERMS_LIMIT = 64
"""Different loss operations looked for behind one backward call."""
NODES_LIMIT = 2_000
"""Nodes of arithmetic looked at behind one backward call."""

_THROUGH = frozenset(
    "add sub rsub neg mul div mean sum nansum to_copy view unsafe_view reshape_alias squeeze "
    "unsqueeze select slice stack cat expand clone alias t transpose permute masked_fill "
    "masked_select index where unbind split nan_to_num copy".split()
)
_SCALAR = frozenset("sqrt exp log pow square abs clamp clamp_min log1p".split())
"""Looked through when the tensor is 0-dim: the root of a mean squared error."""


@dataclass(frozen=True)
class LossFacts:
    """One loss operation.

    Attributes:
        operation: see ``facts.LOSSES``.
        value: 0-dim, detached: the operation's own mean, as ``F.<operation>`` with
            ``reduction="mean"`` gives it (KL divergence: ``"batchmean"``), free of what stands
            around it; None if its tensors were not saved.
        reduction: ``mean``, ``sum``, ``none``, or None.
        input_operation: name of the node that made the loss's input, views and copies looked
            through, e.g. ``SoftmaxBackward0``; None for a leaf.
        input_shape: shape of the loss's input, before broadcasting; None if not known.
        target_shape: shape of the target; None if not known.
        classes: number of classes, or None.
        target: statistics of the target, whose ``baseline()`` is comparable with ``value``; None
            if the target was not saved.
    """

    operation: str
    value: Tensor | None = None
    reduction: str | None = None
    input_operation: str | None = None
    input_shape: tuple[int, ...] | None = None
    target_shape: tuple[int, ...] | None = None
    classes: int | None = None
    target: Target | None = None


@torch.no_grad()
def loss_facts(loss: Tensor | Sequence[Tensor]) -> list[LossFacts]:
    """Facts about each loss operation at the end of a graph.

    Args:
        loss: the tensor or tensors that backward starts from.

    Returns:
        The known losses in the order in which they are met, then ``other:<node name>`` for each
        kind of node that a term ends in and that is none. Empty without a graph.
    """
    found: list[Found] = []
    others: dict[str, None] = {}
    tensors = [loss] if isinstance(loss, Tensor) else list(loss)
    stack = [(t.grad_fn, Path()) for t in reversed(tensors) if t.grad_fn is not None]
    seen: set[tuple[Node, bool]] = set()
    while stack and len(seen) < NODES_LIMIT and len(found) < TERMS_LIMIT:
        node, path = stack.pop()
        # a log_softmax that two terms share (label smoothing) is one place, met on two ways
        if (node, path.is_sum_of_classes) in seen:
            continue
        seen.add((node, path.is_sum_of_classes))
        operation = node_operation(node.name())
        match = MATCHERS.get(operation)
        hit = match(node, path) if match is not None else None
        if hit is not None:
            found.append(hit)
        elif below := _below(node, operation, path):
            stack.extend(reversed(below))
        elif node.next_functions or operation != "accumulate_grad":
            others[node.name()] = None
    facts = [LossFacts(**hit.facts()) for hit in _merge_smoothing(found)]
    if not facts:
        # an elementwise sum inside the model looks like a sum of terms: one answer is enough
        return [LossFacts(f"other:{name}") for name in others][:1]
    return facts + [LossFacts(f"other:{name}") for name in others]


def _below(node: Node, operation: str, path: Path) -> list[tuple[Node, Path]]:
    """The next nodes and ways to them; empty where the arithmetic around losses ends."""
    if operation in _SCALAR:
        inside = saved(node, "self")
        inside = saved(node, "result") if inside is None else inside
        if not isinstance(inside, Tensor) or inside.dim():
            return []
    elif operation not in _THROUGH:
        return []
    children = [(index, child) for index, (child, _) in enumerate(node.next_functions)]
    present = [(index, child) for index, child in children if child is not None]
    if operation in ("mul", "div") and len(present) > 1:
        # a product of two things that both learn is a term of its own
        return [(child, Path()) for _, child in present if _is_loss(child)]
    step = path.through(node, operation)
    if operation == "sub":
        return [(c, replace(step, negated=i == 1 and len(present) == 1)) for i, c in present]
    return [(child, step) for _, child in present]


def _is_loss(node: Node) -> bool:
    operation = node_operation(node.name())
    return operation in MATCHERS and operation.endswith(("_loss", "2d", "logits", "entropy"))


def _merge_smoothing(found: list[Found]) -> list[Found]:
    """Put the two halves of a label-smoothed cross-entropy together.

    ``F.cross_entropy(label_smoothing=e)`` adds ``(1-e)·nll`` and ``e/C`` times the sum over classes
    of the negative log-probabilities; both read one log_softmax.
    """
    merged: list[Found] = []
    for hit in found:
        twin = next((m for m in merged if m.log_softmax is hit.log_softmax is not None), None)
        if twin is None:
            merged.append(hit)
            continue
        hard, soft = (twin, hit) if hit.even else (hit, twin)
        if soft.even and not hard.even and hard.smoothed is not None:
            merged[merged.index(twin)] = hard.smoothed(soft.scale / hard.scale)
        else:
            merged.append(hit)
    return [hit for hit in merged if not hit.even]


__all__ = ["LossFacts", "edge", "loss_facts"]
