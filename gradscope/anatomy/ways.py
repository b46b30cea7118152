"""Inside a block: the ways that a gradient takes through it, and the gains of its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.anatomy.facts import Way
from gradscope.anatomy.kinds import shape_only
from gradscope.anatomy.names import ancestors, call_name
from gradscope.anatomy.paths import Paths
from gradscope.observe.autograd.step_graph import ForwardWatch, NodeGradients

Seen = Mapping[Node, NodeGradients]
MOST_INSIDE = 40
"""Layers listed inside one block; a deeper one is a model of its own."""


class Part(Protocol):
    """A link of the chain."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes, the loss first."""

    @property
    def call(self) -> int:
        """The innermost call that holds them."""

    @property
    def top(self) -> float:
        """Norm of the loss gradient at its output."""


def wanted(found: Paths, watch: ForwardWatch, nodes: Sequence[Node]) -> set[Node]:
    """Nodes of a branching span whose gradients ``through`` and ``inside`` read."""
    own = set(nodes)
    out = {way.node for node in nodes for way in found.ways[node] if way.child not in own}
    for call in watch.calls:
        for edge in (*call.edges, *call.input_edges):
            if call.leaf and edge is not None and edge[0] in own:
                out.add(edge[0])
    return out


def through(
    nodes: Sequence[Node], last: Part, found: Paths, watch: ForwardWatch, seen: Seen
) -> tuple[Way, ...]:
    """What arrives at the block's input by each way, over the gradient at the block's output.

    The ways add up as vectors, so their gains need not add up to the block's.
    """
    top = _norm(seen[nodes[0]].outputs) if nodes[0] in seen else 0.0
    own = set(last.nodes)
    sums: dict[str, Tensor] = {}
    for node in last.nodes:
        for way in found.ways[node]:
            if way.child in own or node not in seen or len(seen[node].inputs) <= way.index:
                continue
            gradient = seen[node].inputs[way.index]
            if gradient is None:
                continue
            label = _way_label(node, last.call, watch)
            known = sums.get(label)
            if known is not None and known.shape != gradient.shape:
                return ()
            sums[label] = gradient.double() if known is None else known + gradient.double()
    if len(sums) < 2 or not top > 0:
        return ()
    return tuple(Way(label, _norm([total]) / top) for label, total in sums.items())


def inside(group: Sequence[Part], found: Paths, watch: ForwardWatch, seen: Seen) -> tuple[Way, ...]:
    """Gain of each layer in a block whose input feeds that layer alone."""
    own = {node for part in group for node in part.nodes}
    rows = []
    for index, call in enumerate(watch.calls):
        if not call.leaf or not call.edges or not call.input_edges:
            continue
        end, start = call.edges[0], call.input_edges[0]
        if end is None or start is None or end[0] not in own or start[0] == end[0]:
            continue
        if not _feeds_only(start[0], start[1], index, found, watch):
            continue
        top, bottom = _at(end, seen), _at(start, seen)
        if top and bottom is not None:
            rows.append(Way(call_name(watch, index), bottom / top))
    return tuple(rows[:MOST_INSIDE])


def span(group: Sequence[Part], call: int, watch: ForwardWatch) -> str:
    """Which part of a module a block is: `` (norm1 … dropout1)``; "" for the whole module."""
    children: list[int] = []
    for part in group:
        for node in part.nodes:
            chain = ancestors(watch, watch.innermost(node))
            if call in chain and chain.index(call) > 0:
                children.append(chain[chain.index(call) - 1])
    if not children:
        return ""
    all_children = {i for i, other in enumerate(watch.calls) if other.parent == call}
    if set(children) == all_children:
        return ""
    first, last = min(children), max(children)
    prefix = f"{watch.calls[call].name}." if watch.calls[call].name else ""
    names = [call_name(watch, index).removeprefix(prefix) for index in (first, last)]
    return f" ({names[0]})" if first == last else f" ({names[0]} … {names[1]})"


def _way_label(node: Node, block: int, watch: ForwardWatch) -> str:
    chain = ancestors(watch, watch.innermost(node))
    if block in chain:
        chain = chain[: chain.index(block)]
    if chain:
        return call_name(watch, chain[-1])
    return "past the layers" if "add" in node.name().lower() or shape_only(node) else (
        f"a function ({node.name().split('Backward')[0].lower()})"
    )  # fmt: skip


def _feeds_only(node: Node, output: int, call: int, found: Paths, watch: ForwardWatch) -> bool:
    consumers = [
        way.node
        for ways in found.ways.values()
        for way in ways
        if way.child is node and way.output == output
    ]
    return bool(consumers) and all(
        call in ancestors(watch, watch.innermost(consumer)) for consumer in consumers
    )


def _at(edge: tuple[Node, int], seen: Seen) -> float | None:
    node, output = edge
    if node not in seen or len(seen[node].outputs) <= output:
        return None
    gradient = seen[node].outputs[output]
    return None if gradient is None else _norm([gradient])


def _norm(tensors: Sequence[Tensor | None]) -> float:
    squares = [
        float(torch.linalg.vector_norm(t.detach().double()).square())
        for t in tensors
        if t is not None
    ]
    return math.sqrt(sum(squares))
