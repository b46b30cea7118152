"""Origin of a non-finite loss from what its graph has saved: nothing is run again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.operations import node_operation
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.birth.births import Origin
from gradscope.observe.birth.finite import Batch, bad_samples, state_of
from gradscope.observe.birth.operands import described
from gradscope.observe.private import node_sequence_nr, saved

NODES_LIMIT = 20_000
"""Nodes that are looked at, nearest to the loss first."""
ELEMENTS_LIMIT = 50_000_000
"""Elements up to which an operation is computed again to see its output."""
_RESULTS = ("result", "result0", "output", "out")
_INDEX_LIKE = frozenset({"condition", "mask", "index", "indices", "target", "other_mask"})
_LINEAR = frozenset({"add", "sub", "rsub", "mul", "where", "cat", "stack", "lerp", "addcmul"})
"""Operations that make no NaN of finite numbers."""
_RANDOM = ("dropout", "rand", "normal", "bernoulli", "rrelu", "multinomial", "exponential")


@dataclass
class _Step:
    """What is known about one node: None where nothing was saved that tells."""

    node: Node
    children: list[Node | None]
    output_bad: bool | None = None
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """By edge: the saved tensor that went in."""
    others: list[Tensor] = field(default_factory=list)
    """Saved inputs that came by no edge: constants."""
    result: Tensor | None = None


@torch.no_grad()
def origin_in_graph(
    loss: Tensor | Sequence[Tensor],
    *,
    batch: Batch | int | None = None,
    inside: Collection[int] = (),
) -> Origin | None:
    """First operation behind a non-finite loss whose output is not finite though its inputs are.

    Call it at the entry of backward. It reads saved tensors and computes cheap operations again
    from them; it leaves those alone that saved-tensor hooks have packed.

    Args:
        loss: the tensor or tensors that backward starts from.
        batch: how samples lie in a batch, or their number.
        inside: numbers of the nodes that made the roots' outputs; what comes after them is loss
            code.

    Returns:
        The origin, with the node's number, without a line; one without an operation where the
        graph does not tell. None where every loss is finite.
    """
    tensors = [loss] if isinstance(loss, Tensor) else list(loss)
    bad = [t for t in tensors if state_of(t)]
    if not bad:
        return None
    roots = [t.grad_fn for t in bad if t.grad_fn is not None]
    if not roots:
        return Origin(None, None, None, None, (), "the loss has no graph")
    steps = _read(roots)
    for root in roots:
        steps[root].output_bad = True
    for node in sorted(steps, key=node_sequence_nr):
        step = steps[node]
        if step.output_bad is None and any(
            steps[child].output_bad for child in step.children if child in steps
        ):
            # nothing was saved that tells; what is bad stays bad as a rule
            step.output_bad = True
    births, data = [], None
    for step in _reached(roots, steps):
        if _of_constant(step):
            data = data or step
        elif _is_birth(step, steps):
            births.append(step)
    if births:
        # made earliest: what was made later may follow from it
        first = min(births, key=lambda step: node_sequence_nr(step.node))
        operation = node_operation(first.node.name())
        rows = () if first.result is None else bad_samples(first.result, batch)
        kind = "not finite" if first.result is None else _kind(first.result)
        known = all(child is None or i in first.inputs for i, child in enumerate(first.children))
        doubt = "" if known else "; some of its inputs were not saved"
        reason = f"the output of {operation} is {kind} and what it was given is finite{doubt}"
        number = node_sequence_nr(first.node)
        outside = bool(inside) and first.node in _outside(roots, inside)
        seen = () if first.result is None else tuple(described(_given(first), first.result))
        return Origin(
            operation, "forward", None, None, rows, reason,
            node=number, operands=seen, outside=outside,
        )  # fmt: skip
    if data is not None:
        return _given_bad(data, batch)
    return Origin(None, None, None, None, (), "the graph saved too little to tell")


def _read(roots: list[Node]) -> dict[Node, _Step]:
    steps: dict[Node, _Step] = {}
    for node, edges in Walk(dict.fromkeys(roots), NODES_LIMIT):
        step = steps[node] = _Step(node, [child for child, _ in edges])
        _fill(step)
    # what a node saved of its input is the output of the node before it
    for step in steps.values():
        for index, tensor in step.inputs.items():
            child = step.children[index]
            if child in steps and child is not None and steps[child].output_bad is None:
                steps[child].output_bad = state_of(tensor) > 0
                steps[child].result = tensor
    return steps


def _fill(step: _Step) -> None:
    name = node_operation(step.node.name())
    for attribute in _RESULTS:
        result = saved(step.node, attribute)
        if isinstance(result, Tensor) and result.is_floating_point():
            step.result = result
            break
    schema = _schema(name, len(step.children))
    if schema is None:
        return
    edge = 0
    values: list[Any] = []
    for argument in schema.arguments:
        value = saved(step.node, argument.name)
        values.append(value)
        if not _differentiable(argument):
            continue
        if isinstance(value, Tensor) and value.is_floating_point():
            if step.children[edge] is None:
                step.others.append(value)
            else:
                step.inputs[edge] = value
        edge += 1
    if step.result is None:
        step.result = _computed(name, schema, values)
    if step.result is not None:
        step.output_bad = state_of(step.result) > 0
    elif name == "div" and any(bool((t == 0).any()) for t in (*step.inputs.values(), *step.others)):
        # the numerator was not saved, but only finite numbers over 0 are in question
        step.output_bad = True


def _schema(name: str, edges: int) -> Any:
    """Schema of the overload that has as many differentiable tensors as the node has edges."""
    for spelt in (name, f"_{name}"):
        packet = getattr(torch.ops.aten, spelt, None)
        if packet is None:
            continue
        for overload in packet.overloads():
            schema = getattr(packet, overload)._schema
            if "out" in overload or schema.is_mutable:
                continue
            if sum(map(_differentiable, schema.arguments)) == edges:
                return schema
    return None


def _differentiable(argument: Any) -> bool:
    kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
    return kind == "Tensor" and argument.name not in _INDEX_LIKE


def _computed(name: str, schema: Any, values: list[Any]) -> Tensor | None:
    """The operation again, where all that it was given was saved."""
    if any(word in name for word in _RANDOM):
        return None
    given = []
    for argument, value in zip(schema.arguments, values, strict=True):
        if value is None and not argument.has_default_value():
            return None
        given.append(argument.default_value if value is None else value)
    tensors = [value for value in given if isinstance(value, Tensor)]
    # without its parameters an operation with defaults is another one: only pointwise ones are safe
    settings = [a for a in schema.arguments if a.has_default_value()]
    if not tensors or settings or sum(t.numel() for t in tensors) > ELEMENTS_LIMIT:
        return None
    packet = getattr(torch.ops.aten, schema.name.rsplit("::", 1)[-1])
    try:
        result = packet(*given)
    except RuntimeError:
        return None
    return result if isinstance(result, Tensor) else None


def _reached(roots: list[Node], steps: dict[Node, _Step]) -> Iterator[_Step]:
    """Steps that the roots go back to by ways on which nothing is known to be finite."""
    stack, seen = list(roots), set(roots)
    while stack:
        step = steps[stack.pop()]
        yield step
        for parent in _parents(step, steps):
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)


def _parents(step: _Step, steps: dict[Node, _Step]) -> list[Node]:
    return [
        child
        for child in step.children
        if child in steps and child is not None and steps[child].output_bad is not False
    ]


def _is_birth(step: _Step, steps: dict[Node, _Step]) -> bool:
    if not step.output_bad or any(state_of(t) for t in _given(step)):
        return False
    return not any(steps[parent].output_bad for parent in _parents(step, steps))


def _given(step: _Step) -> list[Tensor]:
    return [*step.inputs.values(), *step.others]


def _of_constant(step: _Step) -> bool:
    """Whether something without a graph brought it in: data, or what was made from data."""
    if any(state_of(tensor) for tensor in step.others):
        return not any(state_of(tensor) for tensor in step.inputs.values())
    linear = node_operation(step.node.name()) in _LINEAR
    if not linear or step.result is None or None not in step.children:
        return False
    # of finite numbers these make an infinity only by overflow, and then the rest is huge, too
    finite = step.result[torch.isfinite(step.result)]
    huge = bool(finite.numel()) and float(finite.abs().max()) > torch.finfo(finite.dtype).max / 1e6
    bad = any(state_of(tensor) for tensor in _given(step))
    return state_of(step.result) > 0 and not huge and not bad


def _given_bad(step: _Step, batch: Batch | int | None) -> Origin:
    name = node_operation(step.node.name())
    bad = next((t for t in step.others if state_of(t)), step.result)
    assert bad is not None, "one of them told that it is bad"
    reason = (
        f"{name} was given {_kind(bad)} in a tensor without a graph: data, or what the loss code "
        "made from data"
    )
    return Origin(
        None, "input", None, None, bad_samples(bad, batch), reason,
        operands=tuple(described((), bad)), outside=True,
    )  # fmt: skip


def _outside(roots: list[Node], inside: Collection[int]) -> set[Node]:
    """Nodes between the loss and the outputs of the roots."""
    stack = [root for root in roots if node_sequence_nr(root) not in inside]
    found = set(stack)
    while stack and len(found) < NODES_LIMIT:
        for child, _ in stack.pop().next_functions:
            if child is not None and child not in found and node_sequence_nr(child) not in inside:
                found.add(child)
                stack.append(child)
    return found


def _kind(tensor: Tensor) -> str:
    return {2: "NaN", 1: "Inf"}.get(state_of(tensor), "not finite")
