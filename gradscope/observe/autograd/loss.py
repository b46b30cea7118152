"""Which loss operations stand at the end of a graph, and what their saved tensors tell.

The walk starts at the tensor that backward is called on and goes through the arithmetic around
losses: scaling, sums of terms, means of unreduced losses, copies. What it stops at is matched with
the losses of ``torch.nn.functional``, which are single nodes or small patterns of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.loss_patterns import MATCHERS
from gradscope.observe.autograd.loss_terms import Found, LossFacts, Path
from gradscope.observe.autograd.operations import SHAPE_ONLY, node_operation
from gradscope.observe.private import saved

TERMS_LIMIT = 64
"""Loss operations looked for behind one backward call."""
NODES_LIMIT = 2_000
"""Nodes of arithmetic looked at behind one backward call."""

_THROUGH = SHAPE_ONLY | {
    "add", "sub", "rsub", "neg", "mul", "div", "mean", "sum", "nansum", "select", "stack", "cat",
    "masked_fill", "masked_select", "index", "where", "unbind", "split", "nan_to_num", "copy",
}  # fmt: skip
_SCALAR = frozenset({"sqrt", "exp", "log", "pow", "abs", "clamp", "clamp_min", "log1p"})
"""Looked through when the tensor is 0-dim: the root of a mean squared error."""


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
    seen: set[Node] = set()
    while stack and len(seen) < NODES_LIMIT and len(found) < TERMS_LIMIT:
        node, path = stack.pop()
        operation = node_operation(node.name())
        # two terms that share a log_softmax (label smoothing) meet it on two ways
        if node in seen and operation != "log_softmax":
            continue
        seen.add(node)
        hit = _matched(node, operation, path)
        if hit is not None:
            found.append(hit)
        elif below := _below(node, operation, path):
            stack.extend(reversed(below))
        elif operation != "accumulate_grad":
            others[node.name()] = None
    facts = []
    for hit in _merge_smoothing(found):
        if hit.facts.operation.startswith("other:"):
            others[hit.facts.operation.removeprefix("other:")] = None
        else:
            facts.append(hit.facts)
    # without a known loss the arithmetic may belong to the model: then one answer is enough
    names = list(others) if facts else list(others)[:1]
    return facts + [LossFacts(f"other:{name}") for name in names]


def _matched(node: Node, operation: str, path: Path) -> Found | None:
    match = MATCHERS.get(operation)
    if match is None:
        return None
    try:
        # backward may be called inside autocast, where F.binary_cross_entropy refuses to run
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return match(node, path)
    except (RuntimeError, TypeError, NotImplementedError):
        # targets of an unusual kind (nested, sharded …) cost the facts of this loss only
        return Found(LossFacts(f"other:{node.name()}"))


def _below(node: Node, operation: str, path: Path) -> list[tuple[Node, Path]]:
    """The next nodes and the ways to them; empty where the arithmetic around losses ends."""
    if operation in _SCALAR:
        inside = saved(node, "self")
        inside = saved(node, "result") if inside is None else inside
        if not isinstance(inside, Tensor) or inside.dim():
            return []
    elif operation not in _THROUGH:
        return []
    present = [child for child, _ in node.next_functions if child is not None]
    if operation in ("mul", "div") and len(present) > 1:
        # a loss times something that learns too (its uncertainty): look at the 0-dim ones only
        factors = saved(node, "self"), saved(node, "other")
        if any(not isinstance(factor, Tensor) or factor.dim() for factor in factors):
            return []
    step = path.through(node, operation)
    return [(child, step) for child in present]


def _merge_smoothing(found: list[Found]) -> list[Found]:
    """Put the two halves of a label-smoothed cross-entropy together.

    ``F.cross_entropy(label_smoothing=e)`` is ``(1-e)`` times the nll plus ``e/C`` times the sum
    over classes of the negative log-probabilities, and both halves read one log_softmax.
    """
    merged: list[Found] = []
    even = [hit for hit in found if hit.even]
    for hit in (hit for hit in found if not hit.even):
        half = next((half for half in even if half.log_softmax is hit.log_softmax), None)
        if half is None or hit.smoothed is None or not hit.facts.classes or not hit.scale:
            merged.append(hit)
            continue
        even.remove(half)
        ratio = abs(half.scale / hit.scale) * hit.facts.classes
        merged.append(replace(hit, facts=hit.smoothed(ratio / (1 + ratio))))
    return merged + even
