"""A walk over the nodes behind a tensor that never recurses, and never makes torch recurse.

A node that Python has looked at is freed by Python's deallocator, one nested call for each wrapped
node in a chain; torch's own iterative deletion no longer applies to it. In torch 2.13 a chain of
some 45,000 looked-at nodes overflows an 8 MiB stack when the user's loss is freed, and the process
dies. So the walk keeps count of the depth and stops well before that.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections.abc import Iterable, Iterator

from torch.autograd.graph import Node

from gradscope.observe.private import node_sequence_nr

DEEP = 20_000
"""Nodes in one chain that are looked at on the main thread, whose stack has 8 MiB as a rule."""
SHALLOW = 2_000
"""The same on other threads and on Windows, where 512 KiB or 1 MiB are usual."""


def depth_limit() -> int:
    """Nodes in one chain that may be looked at by the calling thread."""
    main = threading.current_thread() is threading.main_thread()
    return DEEP if main and sys.platform != "win32" else SHALLOW


class Walk:
    """Nodes behind some roots, each one once, consumers before producers.

    The order is that of falling sequence numbers, in which autograd makes nodes; a graph made by
    several threads may come in another order.

    Attributes:
        truncated: chains were too deep or nodes too many, so something was not visited.
        visited: number of nodes given so far.
    """

    def __init__(self, roots: Iterable[Node], limit: int = 1_000_000) -> None:
        self.truncated = False
        self.visited = 0
        self._limit = limit
        self._deepest = depth_limit()
        self._depth: dict[Node, int] = {}
        self._heap: list[tuple[int, int, Node]] = []
        for root in roots:
            self._push(root, 0)

    def __iter__(self) -> Iterator[tuple[Node, tuple[tuple[Node | None, int], ...]]]:
        """Each node with its edges; none for a node at which the walk stops."""
        while self._heap:
            node = heapq.heappop(self._heap)[2]
            self.visited += 1
            depth = self._depth[node] + 1
            if depth > self._deepest or self.visited >= self._limit:
                self.truncated = True
                yield node, ()
                continue
            edges = node.next_functions
            for child, _ in edges:
                if child is not None:
                    self._push(child, depth)
            yield node, edges

    def _push(self, node: Node, depth: int) -> None:
        known = self._depth.get(node)
        if known is None:
            # leaves have no number and no edges: any place in the order will do
            order = -node_sequence_nr(node), len(self._depth)
            heapq.heappush(self._heap, (*order, node))
        if known is None or depth > known:
            self._depth[node] = depth
