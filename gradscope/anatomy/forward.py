"""The forward pass as rows: each layer's output in numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.anatomy.facts import LayerRow
from gradscope.anatomy.kinds import operation
from gradscope.anatomy.names import ancestors, call_name
from gradscope.observe.autograd.operations import ACTIVATIONS
from gradscope.observe.autograd.step_graph import ForwardWatch
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.private import node_sequence_nr, output_shape, saved
from gradscope.observe.reading import slopes


def rows(loss: Tensor, watch: ForwardWatch) -> tuple[LayerRow, ...]:
    """One row for each module that calls no other, and for each activation function between."""
    found: list[tuple[int, LayerRow]] = []
    for index, call in enumerate(watch.calls):
        if not call.leaf:
            continue
        output = call.outputs[0] if call.outputs else None
        kind = slopes.module_kind(call.module)
        flat = None
        if kind is not None and call.inputs:
            bounds = slopes.bounds_of(call.module)
            flat = _flat(slopes.slope_from_input(kind, call.inputs[0], bounds))
        # a module that makes no node still has its place in the order
        place = max(call.first, call.last - 1)
        depth = len(ancestors(watch, index)) - 1
        name = call_name(watch, index)
        found.append((place, _row(name, type(call.module).__name__, output, flat, depth)))
    if loss.grad_fn is not None:
        for node, _ in Walk([loss.grad_fn]):
            row = _function(node, watch)
            if row is not None:
                found.append((node_sequence_nr(node), row))
    # stable: modules of one place stay in the order in which they were called
    return tuple(row for _, row in sorted(found, key=lambda item: item[0]))


def _function(node: Node, watch: ForwardWatch) -> LayerRow | None:
    name = operation(node)
    kind = ACTIVATIONS.get(name)
    index = watch.innermost(node)
    if kind is None or index < 0 or watch.calls[index].leaf:
        # inside a module that calls no other it is that module's own business
        return None
    result = saved(node, "result")
    given = saved(node, "self")
    slope = None
    if isinstance(result, Tensor):
        slope = slopes.slope_from_output(kind, result)
    if slope is None and isinstance(given, Tensor):
        slope = slopes.slope_from_input(kind, given, slopes.bounds_of_node(node))
    if not isinstance(result, Tensor):
        result = _handed_on(node, watch)
    place = call_name(watch, index) if watch.calls[index].name else "forward"
    depth = len(ancestors(watch, index))
    row = _row(f"{name} in {place}", "function", result, _flat(slope), depth)
    if result is None:
        shape = output_shape(node, 0) or ()
        return LayerRow(row.name, row.type, shape, math.nan, math.nan, math.nan, row.flat, 0, depth)
    return row


def _handed_on(node: Node, watch: ForwardWatch) -> Tensor | None:
    """What a node made, as the next module got it."""
    for call in watch.calls:
        for edge, tensor in zip(call.input_edges, call.inputs, strict=True):
            if edge is not None and edge[0] is node:
                return tensor
    return None


def _flat(slope: Tensor | None) -> float | None:
    if slope is None or not slope.numel():
        return None
    return float((slope < slopes.ACTIVE_SLOPE).double().mean())


def _row(name: str, type_: str, output: Tensor | None, flat: float | None, depth: int) -> LayerRow:
    if output is None or not output.numel() or not output.is_floating_point():
        shape = () if output is None else tuple(output.shape)
        return LayerRow(name, type_, shape, math.nan, math.nan, math.nan, flat, 0, depth)
    values = output.detach().double()
    good = torch.isfinite(values)
    return LayerRow(
        name, type_, tuple(output.shape), float(values.mean()), float(values.std(correction=0)),
        float((values == 0).double().mean()), flat, int((~good).sum()), depth,
    )  # fmt: skip
