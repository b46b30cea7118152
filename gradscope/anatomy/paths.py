"""The ways from a loss back to the model's input, and the places that all of them pass.

A tensor that every way passes cuts the graph in two: behind it the chain rule is one product. The
norm of the loss gradient at such tensors gives factors whose product is the norm at the input,
whatever branches lie between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.operations import node_operation
from gradscope.observe.autograd.step_graph import ForwardWatch
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.private import node_sequence_nr, saved


@dataclass(frozen=True)
class Way:
    """An edge of the graph: ``node`` hands its ``index``-th gradient to ``child``'s ``output``."""

    node: Node
    index: int
    child: Node
    output: int


@dataclass(frozen=True)
class Paths:
    """The part of a graph that lies between a loss and some sources.

    Attributes:
        order: its nodes, the loss first, each before those that it hands a gradient to.
        ways: edges out of each node that lie on a way.
        cuts: places in ``order`` of the nodes that all ways pass.
        sources: where the ways end.
        complete: the whole graph could be looked at.
    """

    order: tuple[Node, ...]
    ways: dict[Node, tuple[Way, ...]]
    cuts: tuple[int, ...]
    sources: tuple[Node, ...]
    complete: bool

    def __contains__(self, node: Node) -> bool:
        return node in self.ways


def paths(loss: Tensor, sources: Iterable[Node]) -> Paths:
    """All ways from a loss to some nodes; without a cut where none is reached.

    Args:
        loss: 0-dim, with a graph.
        sources: nodes at which the ways end; what lies behind them does not count.
    """
    ends = set(sources)
    if loss.grad_fn is None:
        return Paths((), {}, (), (), complete=True)
    walk = Walk([loss.grad_fn])
    found = [(node, () if node in ends else edges) for node, edges in walk]
    on_a_way: set[Node] = set()
    ways: dict[Node, tuple[Way, ...]] = {}
    # the walk gives consumers first: from its end, every child is known before its parent
    for node, edges in reversed(found):
        own = tuple(
            Way(node, index, child, output)
            for index, (child, output) in enumerate(edges)
            if child is not None and child in on_a_way
        )
        if own or node in ends:
            on_a_way.add(node)
            ways[node] = own
    order = tuple(node for node, _ in found if node in on_a_way)
    arriving = dict.fromkeys(order, 0)
    for node in order:
        for way in ways[node]:
            arriving[way.child] += 1
    cuts, underway = [], 0
    for place, node in enumerate(order):
        if underway == arriving[node]:
            cuts.append(place)
        underway += len(ways[node]) - arriving[node]
    reached = tuple(node for node in order if node in ends)
    return Paths(order, ways, tuple(cuts), reached, not walk.truncated)


def input_nodes(loss: Tensor, watch: ForwardWatch) -> list[Node]:
    """The nodes at which the model's input enters the graph of a loss.

    These are the leaves of floating inputs, else the embedding lookups of integer inputs, else (for
    a model that hides both) the first operation of the graph.
    """
    if loss.grad_fn is None:
        return []
    leaves = {id(leaf) for leaf in watch.leaves}
    found: list[Node] = []
    lookups: list[Node] = []
    first: Node | None = None
    for node, _ in Walk([loss.grad_fn]):
        if type(node).__name__ == "AccumulateGrad":
            if id(node.variable) in leaves:  # type: ignore[attr-defined]
                found.append(node)
            continue
        first = node
        if node_operation(node.name()) in ("embedding", "embedding_bag") and _looks_up(node, watch):
            lookups.append(node)
    if found or lookups:
        return found or lookups
    return [] if first is None else [first]


def _looks_up(node: Node, watch: ForwardWatch) -> bool:
    """Whether a lookup's indices are one of the model's inputs, and not positions."""
    indices = saved(node, "indices")
    if not isinstance(indices, Tensor):
        return False
    return any(
        tokens.numel() == indices.numel() and bool((tokens.flatten() == indices.flatten()).all())
        for tokens in watch.tokens
    )


def place_of(found: Paths, numbers: Iterable[int]) -> int | None:
    """The first cut whose node has one of some sequence numbers, as an index into ``cuts``."""
    wanted = set(numbers)
    for index, place in enumerate(found.cuts):
        if node_sequence_nr(found.order[place]) in wanted:
            return index
    return None
