"""One forward pass as a list of module calls, and the gradients at any node of its graph.

A module call is an interval of autograd's sequence numbers: every node that the call made lies in
it, whatever the call returns, however often the module is called, in place or not. So a node's
module is known without a hook on a tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from gradscope.observe import private
from gradscope.observe.reading.containers import numbers_in

Edge = tuple[Node, int]
"""A tensor in the graph: the node that made it, and which output of that node it is."""
Source = Callable[[int, Tensor], Tensor]
"""Gives what the model is to get instead of its ``position``-th floating input."""


@dataclass
class Call:
    """One call of one module.

    Attributes:
        name: qualified name, "" for the model itself.
        module: the module.
        nth: 0 for its first call in the pass.
        parent: index of the call that it was made in; -1: none.
        first, last: sequence numbers: its nodes are those from ``first`` to before ``last``.
        inputs, outputs: floating tensors, detached copies as they were when the call began, ended.
        live: the outputs themselves.
        input_edges, edges: where each input and output stands in the graph; None without a graph.
        leaf: it called no other module.
    """

    name: str
    module: nn.Module
    nth: int
    parent: int
    first: int
    last: int = -1
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    live: list[Tensor] = field(default_factory=list)
    input_edges: list[Edge | None] = field(default_factory=list)
    edges: list[Edge | None] = field(default_factory=list)
    leaf: bool = True


class ForwardWatch:
    """Module calls of a forward pass, and the model's inputs as leaves of the graph.

    Use it as a context manager around one forward pass. Each floating input of an outermost call
    that has no graph is exchanged for a leaf that requires grad, so that the gradient at the
    model's input exists; integer inputs are only kept.

    Attributes:
        calls: in the order in which they began.
        leaves: the floating inputs as leaves.
        tokens: the integer inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        source: Source | None = None,
        outputs: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        """Make one.

        Args:
            model: the model.
            source: what to give instead of each floating input; None for the input itself.
            outputs: for modules by name, what to hand on instead of their output.
        """
        self.calls: list[Call] = []
        self.leaves: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self._names = {id(m): (name, m) for name, m in reversed([*model.named_modules()])}
        self._source = source or (lambda _position, tensor: tensor)
        self._change = outputs or {}
        self._stack: list[int] = []
        self._times: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ForwardWatch:
        for name, module in self._names.values():
            self._handles.append(
                module.register_forward_pre_hook(
                    functools.partial(self._before, name), with_kwargs=True
                )
            )
            self._handles.append(
                module.register_forward_hook(self._after, with_kwargs=True, always_call=True)
            )
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._stack:
            args, kwargs = self._with_leaves(args), self._with_leaves(kwargs)
        else:
            self.calls[self._stack[-1]].leaf = False
        nth = self._times.get(id(module), 0)
        self._times[id(module)] = nth + 1
        parent = self._stack[-1] if self._stack else -1
        call = Call(name, module, nth, parent, private.sequence_nr())
        given = list(numbers_in((args, kwargs)))
        call.inputs = [tensor.detach().clone() for tensor in given]
        call.input_edges = [edge_of(tensor) for tensor in given]
        self._stack.append(len(self.calls))
        self.calls.append(call)
        return args, kwargs

    def _after(
        self, _module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any
    ) -> Any:
        call = self.calls[self._stack.pop()]
        change = self._change.get(call.name)
        if change is not None and isinstance(output, Tensor):
            output = change(output)
        call.last = private.sequence_nr()
        call.live = list(numbers_in(output))
        call.outputs = [tensor.detach().clone() for tensor in call.live]
        call.edges = [edge_of(tensor) for tensor in call.live]
        return output

    def _with_leaves(self, thing: Any) -> Any:
        if isinstance(thing, Tensor):
            if not thing.is_floating_point():
                self.tokens.append(thing.detach())
                return thing
            if thing.requires_grad or not torch.is_grad_enabled():
                return thing
            given = self._source(len(self.leaves), thing.detach())
            leaf = given.detach().clone().requires_grad_()
            self.leaves.append(leaf)
            # a copy: the model may change its input in place, which a leaf does not allow
            return leaf.clone()
        if isinstance(thing, tuple) and hasattr(thing, "_fields"):
            return type(thing)(*(self._with_leaves(item) for item in thing))
        if isinstance(thing, tuple | list):
            return type(thing)(self._with_leaves(item) for item in thing)
        if isinstance(thing, dict):
            return {key: self._with_leaves(item) for key, item in thing.items()}
        return thing

    def innermost(self, node: Node) -> int:
        """Index of the innermost call that made a node; -1: made outside the model."""
        number = private.node_sequence_nr(node)
        found = -1
        if number < 0:
            return found
        for index, call in enumerate(self.calls):
            if call.first > number:
                break
            if number < call.last:
                found = index
        return found


def edge_of(tensor: Tensor) -> Edge | None:
    """Where a tensor stands in the graph; None for a leaf and without a graph."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


@dataclass
class NodeGradients:
    """What passed a node in backward.

    Attributes:
        outputs: the loss gradient at each output of the node; None where none came.
        inputs: what the node gave to each of its edges; None where it gave nothing.
    """

    outputs: tuple[Tensor | None, ...] = ()
    inputs: tuple[Tensor | None, ...] = ()


@contextmanager
def gradients_at(nodes: Iterable[Node]) -> Iterator[dict[Node, NodeGradients]]:
    """Gradients that pass some nodes while backward runs inside.

    Args:
        nodes: nodes of the graph; hold them, since a node is told by its Python object.

    Yields:
        what was seen, filled while backward runs.
    """
    seen: dict[Node, NodeGradients] = {}
    handles: list[RemovableHandle] = []

    def before(node: Node, outputs: tuple[Tensor | None, ...]) -> None:
        seen.setdefault(node, NodeGradients()).outputs = _copies(outputs)

    def after(
        node: Node, inputs: tuple[Tensor | None, ...], _outputs: tuple[Tensor | None, ...]
    ) -> None:
        seen.setdefault(node, NodeGradients()).inputs = _copies(inputs)

    for node in nodes:
        handles.append(node.register_prehook(functools.partial(before, node)))
        handles.append(node.register_hook(functools.partial(after, node)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _copies(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.detach().clone() for tensor in tensors)
