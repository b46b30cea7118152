"""The autograd graph of a loss, walked once at the entry of backward.

Nothing here keeps a node or a tensor: a view of the graph holds numbers only, so it may outlive
the backward pass. Nodes are told apart by their sequence numbers, which stay the same when Python's
wrapper of a node is made anew; leaves by ``id`` of the tensor, which the model keeps alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.loss import loss_facts
from gradscope.observe.autograd.loss_terms import LossFacts
from gradscope.observe.autograd.operations import NO_GRADIENT, ZERO_GRADIENT, node_operation
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.private import node_sequence_nr

__all__ = ["GraphView", "LossFacts", "leaves_behind", "loss_facts", "reachable", "reaches"]

_LEAF, _PLAIN, _ZERO, _OPAQUE = range(4)
_GENERIC = frozenset({"CppFunction", "Node"})
"""Python types that several kinds of node share."""


@dataclass(frozen=True)
class GraphView:
    """What a walk over the graph of a loss saw.

    Attributes:
        leaves: ``id`` of each leaf tensor that the graph reaches.
        blocked: those of them that it reaches only through operations whose derivative is 0
            everywhere (round, sign …): backward gives them a gradient of exactly 0.
        nodes: number of nodes, leaves included.
        hidden_by: what hides a part of the graph: names of nodes (a reentrant checkpoint runs its
            block, with its parameters, only inside backward), ``depth`` where the graph is too
            deep to be looked at safely. A leaf that is not in ``leaves`` is certainly not reached
            only where this is empty.
    """

    leaves: frozenset[int]
    blocked: frozenset[int]
    nodes: int
    hidden_by: tuple[str, ...] = ()
    _leaf_edges: Mapping[int, int] = field(default_factory=dict, repr=False)
    _edges: Mapping[tuple[int, int], int] = field(default_factory=dict, repr=False)
    _ambiguous: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether no part of the graph was hidden."""
        return not self.hidden_by

    def reaches(self, leaf: Tensor) -> bool | None:
        """Whether the loss depends on a leaf tensor; None where a hidden part may reach it.

        The graph of a sharded parameter ends at the gathered one, which is another tensor.
        """
        if id(leaf) in self.leaves:
            return True
        return None if self.hidden_by or hasattr(leaf, "device_mesh") else False

    def consumers(self, tensor: Tensor) -> int:
        """Edges of this graph that read a tensor.

        Returns:
            For a leaf the edges into its AccumulateGrad; 0 for one that nothing in this graph
            reads; -1 where it cannot be told (no graph, or a node that has no number).
        """
        if tensor.grad_fn is None:
            return self._leaf_edges.get(id(tensor), 0) if tensor.requires_grad else -1
        return self.edge_consumers(node_sequence_nr(tensor.grad_fn), tensor.output_nr)

    def edge_consumers(self, node: int, output: int) -> int:
        """The same for output ``output`` of the node with sequence number ``node``."""
        if node < 0 or node in self._ambiguous:
            return -1
        return self._edges.get((node, output), 0)


def reachable(loss: Tensor | Sequence[Tensor]) -> GraphView:
    """Walk the graph behind one or several tensors.

    Args:
        loss: the tensor or tensors that backward starts from; those without a graph are skipped.

    Returns:
        The view. It takes time and memory in proportion to the nodes and never recurses.
    """
    tensors = [loss] if isinstance(loss, Tensor) else list(loss)
    roots = [t.grad_fn for t in tensors if t.grad_fn is not None]
    own = {id(t) for t in tensors if t.grad_fn is None and t.requires_grad}
    counts = _Counts(roots)
    walk = Walk(dict.fromkeys(roots))
    for node, edges in walk:
        counts.add(node, edges)
    if walk.truncated:
        counts.hidden.add("depth")
    return GraphView(
        leaves=frozenset(counts.leaves | counts.blocked | own),
        blocked=frozenset(counts.blocked - counts.leaves - own),
        nodes=walk.visited,
        hidden_by=tuple(sorted(counts.hidden)),
        _leaf_edges=counts.leaf_edges,
        _edges=counts.edges,
        _ambiguous=frozenset(counts.ambiguous),
    )


def reaches(
    loss: Tensor | Sequence[Tensor], wanted: Callable[[Tensor], bool], limit: int = 20_000
) -> bool | None:
    """Whether a loss depends on one of the ``wanted`` leaves; ends at the first that is met.

    Args:
        loss: the tensor or tensors that backward starts from.
        wanted: says so of a leaf.
        limit: nodes after which the walk stops.

    Returns:
        None where none was met, but a part of the graph is hidden (see ``GraphView``) or was not
        walked.
    """
    tensors = [loss] if isinstance(loss, Tensor) else list(loss)
    if any(t.grad_fn is None and t.requires_grad and wanted(t) for t in tensors):
        return True
    walk = Walk(dict.fromkeys(t.grad_fn for t in tensors if t.grad_fn is not None), limit)
    hidden = False
    for node, edges in walk:
        for child, _ in edges:
            # a leaf has no number and would come last in the walk
            leaf = child is not None and type(child).__name__ == "AccumulateGrad"
            if leaf and wanted(child.variable):  # type: ignore[union-attr]
                return True
        hidden = hidden or _kind_of(node) == _OPAQUE
    return None if hidden or walk.truncated else False


def leaves_behind(start: Tensor | Node, limit: int = 100_000) -> tuple[frozenset[int], int]:
    """Leaves that a tensor was computed from.

    Args:
        start: any tensor, or its ``grad_fn``.
        limit: nodes after which the walk stops.

    Returns:
        ``id`` of each leaf found, and the number of nodes visited.
    """
    node = start.grad_fn if isinstance(start, Tensor) else start
    if node is None:
        return frozenset(
            {id(start)} if isinstance(start, Tensor) and start.requires_grad else ()
        ), 0
    walk = Walk([node], limit)
    leaves = {
        id(node.variable)  # type: ignore[attr-defined]
        for node, _ in walk
        if type(node).__name__ == "AccumulateGrad"
    }
    return frozenset(leaves), walk.visited


class _Counts:
    """What a walk adds up."""

    def __init__(self, roots: Sequence[Node]) -> None:
        self.leaves: set[int] = set()
        self.blocked: set[int] = set()
        self.hidden: set[str] = set()
        self.edges: dict[tuple[int, int], int] = {}
        self.leaf_edges: dict[int, int] = {}
        self.ambiguous: set[int] = set()
        self._moving: set[Node] = set(roots)
        """Nodes that a gradient other than 0 can come to."""
        self._numbers: set[int] = set()
        self._kinds: dict[type, int] = {}

    def add(self, node: Node, edges: Sequence[tuple[Node | None, int]]) -> None:
        kind = self._kind(node)
        moving = node in self._moving
        if kind == _LEAF:
            leaf = id(node.variable)  # type: ignore[attr-defined]
            (self.leaves if moving else self.blocked).add(leaf)
            return
        if kind == _OPAQUE:
            self.hidden.add(node.name())
        number = node_sequence_nr(node)
        if number in self._numbers:
            # each thread counts for itself: two replicas may give one number twice
            self.ambiguous.add(number)
        self._numbers.add(number)
        for child, output in edges:
            if child is None:
                continue
            if moving and kind != _ZERO:
                self._moving.add(child)
            if self._kind(child) == _LEAF:
                leaf = id(child.variable)  # type: ignore[attr-defined]
                self.leaf_edges[leaf] = self.leaf_edges.get(leaf, 0) + 1
            else:
                key = node_sequence_nr(child), output
                self.edges[key] = self.edges.get(key, 0) + 1

    def _kind(self, node: Node) -> int:
        kind = self._kinds.get(type(node))
        if kind is None:
            kind = _kind_of(node)
            if type(node).__name__ not in _GENERIC:
                self._kinds[type(node)] = kind
        return kind


def _kind_of(node: Node) -> int:
    if type(node).__name__ == "AccumulateGrad":
        return _LEAF
    operation = node_operation(node.name())
    if operation in ZERO_GRADIENT or operation in NO_GRADIENT:
        return _ZERO
    return _OPAQUE if "Checkpoint" in operation else _PLAIN
