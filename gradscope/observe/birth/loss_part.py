"""What comes back through the loss code's own operations: one backward call, until the update.

The replay of a root ends at its outputs. What lies between them and the loss is the user's loss
code, which nobody can call again. So its few autograd nodes get a hook that keeps the gradients
that went in and came out, without reading them; an alarm reads them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe import private
from gradscope.observe.autograd.operations import node_operation
from gradscope.observe.birth.births import Origin
from gradscope.observe.birth.finite import Batch, bad_samples, state_of
from gradscope.observe.birth.operands import described

NODES = 48
"""Nodes behind a loss that get a hook, nearest first: a loss has 2 to 20 of its own."""
ELEMENTS = 2**22
"""Elements that are kept alive until the update: 16 MiB of float32."""


class _Passed:
    """One node that has run: what came to it and what it gave."""

    __slots__ = ("given", "name", "number", "result")

    def __init__(self, name: str, number: int, result: Any, given: Any) -> None:
        self.name, self.number, self.result, self.given = name, number, result, given


class LossPart:
    """Keeps the gradients that pass the loss code of the open step's backward calls."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._passed: list[_Passed] = []
        self._elements = 0

    def begin(self) -> None:
        """A step begins: forget the one before."""
        self.end()
        self._passed, self._elements = [], 0

    def hook(self, losses: Sequence[Tensor], heads: set[int]) -> None:
        """Watch the nodes between ``losses`` and the outputs of the roots.

        Args:
            losses: what backward starts from.
            heads: sequence numbers of the nodes that made the roots' outputs: there it ends.
        """
        stack = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
        seen: set[Node] = set(stack)
        while stack and len(self._handles) < NODES:
            node = stack.pop()
            number = private.node_sequence_nr(node)
            if number < 0 or number in heads:
                continue
            keep = functools.partial(self._keep, node.name(), number)
            self._handles.append(node.register_hook(keep))
            for child, _ in node.next_functions:
                if child is not None and child not in seen:
                    seen.add(child)
                    stack.append(child)

    def end(self) -> None:
        """The backward call has ended: the nodes are let go."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, name: str, number: int, result: Any, given: Any) -> None:
        # nothing here may fail: it would end the user's backward
        if self._elements <= ELEMENTS:
            for tensor in (*result, *given):
                if isinstance(tensor, Tensor):
                    self._elements += tensor.numel()
            self._passed.append(_Passed(name, number, _bare(result), _bare(given)))

    def origin(self, batch: Batch | None) -> tuple[Origin, Tensor] | None:
        """The first node that was given finite gradients and made one that is not, and that one."""
        for passed in self._passed:
            given = [t for t in passed.given if isinstance(t, Tensor)]
            if any(map(state_of, given)):
                continue
            bad = next((t for t in passed.result if isinstance(t, Tensor) and state_of(t)), None)
            if bad is None:
                continue
            operation = node_operation(passed.name)
            kind = "NaN" if state_of(bad) == 2 else "Inf"
            found = Origin(
                operation,
                "backward",
                None,
                None,
                bad_samples(bad, batch),
                f"the backward of {operation} gave {kind}",
                node=passed.number,
                operands=tuple(described((), bad)),
                outside=True,
            )
            return found, bad
        return None


def _bare(tensors: Iterable[Any]) -> tuple[Any, ...]:
    """Without the graph of a second derivative, which would be kept alive."""
    return tuple([t.detach() if isinstance(t, Tensor) and t.requires_grad else t for t in tensors])
