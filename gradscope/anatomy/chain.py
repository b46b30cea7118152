"""The chain rule: one factor a layer from the loss back to the input, and their product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from gradscope.anatomy import chain_words, ways
from gradscope.anatomy.facts import Chain, Factor, Kind
from gradscope.anatomy.kinds import kind_of, operation, shape_only
from gradscope.anatomy.names import call_name, common, neighbour
from gradscope.anatomy.paths import Paths
from gradscope.observe.autograd.step_graph import ForwardWatch, NodeGradients


@dataclass(frozen=True)
class Link:
    """What lies between two neighbouring cuts.

    Attributes:
        nodes: from the one nearer to the loss to before the other.
        call: index of the innermost module call that holds them all; -1: none.
        kind: what it is made of.
        top, bottom: norm of the loss gradient at its output and at its input.
    """

    nodes: tuple[Node, ...]
    call: int
    kind: Kind
    top: float
    bottom: float


def norm(tensors: Sequence[Tensor | None]) -> float:
    """Euclidean norm over all tensors, summed in float64; NaN without a tensor."""
    known = [tensor for tensor in tensors if tensor is not None]
    if not known:
        return math.nan
    squares = [torch.linalg.vector_norm(tensor.detach().double()).square() for tensor in known]
    return math.sqrt(float(sum(squares[1:], squares[0])))


def wanted(found: Paths, watch: ForwardWatch) -> list[Node]:
    """The nodes at which gradients are needed to say all that ``chain`` says."""
    nodes = {found.order[place] for place in found.cuts} | set(found.sources)
    for first, last in _spans(found):
        if last - first > 1:
            nodes |= ways.wanted(found, watch, found.order[first:last])
    return [node for node in found.order if node in nodes]


def chain(
    found: Paths,
    watch: ForwardWatch,
    seen: Mapping[Node, NodeGradients],
    output: int | None,
    measured: float,
) -> Chain:
    """The factors.

    Args:
        found: the ways from the loss to the input.
        watch: the module calls.
        seen: gradients at the nodes of ``wanted``.
        output: index into ``found.cuts`` of the loss's input: what is nearer to the loss belongs
            to the loss itself. None where it is not known.
        measured: norm of the gradient at the input from a backward pass of its own.
    """
    links = _links(found, watch, seen)
    if output is None:
        output = next((i for i, link in enumerate(links) if link.call >= 0), len(links))
    loss, rest = links[:output], links[output:]
    factors: list[Factor] = []
    product = 1.0
    if loss:
        product = loss[-1].bottom
        factors.append(Factor("the loss", _operations(loss), "loss", product, product))
    for group in _groups(rest, watch):
        label, type_ = _label(group, rest, watch)
        gain = _gain(group)
        product = product * gain if gain is not None else 0.0
        factor = Factor(label, type_, _kind(group, watch), gain, product)
        if factor.kind == "block" and not _leaf(group, watch):
            factor = replace(
                factor,
                ways=ways.through(group[0].nodes, group[-1], found, watch, seen),
                inside=ways.inside(group, found, watch, seen),
            )
        # a reshape or a shift hands on the same numbers: nothing to read
        if not (gain is not None and abs(gain - 1) < 1e-6 and _quiet(group, watch)):
            factors.append(factor)
    parts = dict.fromkeys(("weight", "activation", "other", "block", "loss"), 1.0)
    for factor in factors:
        parts[factor.kind] *= factor.gain if factor.gain is not None else 0.0
    ends = _end(found, watch)
    return Chain(
        factors=tuple(factors), ends=ends, measured=measured,
        words=chain_words.words(factors, parts, ends), notes=chain_words.notes(factors, found),
        weight=parts["weight"], activation=parts["activation"], other=parts["other"],
        block=parts["block"], loss=parts["loss"],
    )  # fmt: skip


def _spans(found: Paths) -> list[tuple[int, int]]:
    """Places in ``order`` from each cut to before the next; the last span ends at the sources."""
    cuts = list(found.cuts)
    if not cuts:
        return []
    spans = list(pairwise(cuts))
    if found.order[cuts[-1]] not in found.sources:
        spans.append((cuts[-1], len(found.order)))
    return spans


def _links(found: Paths, watch: ForwardWatch, seen: Mapping[Node, NodeGradients]) -> list[Link]:
    links = []
    for first, last in _spans(found):
        nodes = found.order[first:last]
        top = norm(seen[nodes[0]].outputs) if nodes[0] in seen else math.nan
        if last < len(found.order) and last in found.cuts:
            below = found.order[last]
            bottom = norm(seen[below].outputs) if below in seen else math.nan
        else:
            bottom = norm([g for s in found.sources if s in seen for g in seen[s].outputs])
        inner = [watch.innermost(node) for node in nodes if type(node).__name__ != "AccumulateGrad"]
        own = tuple(node for node in nodes if node not in found.sources) or nodes
        links.append(Link(own, common(inner, watch), kind_of(own, found), top, bottom))
    return links


def _groups(links: Sequence[Link], watch: ForwardWatch) -> list[list[Link]]:
    """Links of one layer together: a Linear of a sequence is reshape, product, reshape, add."""
    groups: list[list[Link]] = []
    for link in links:
        last = groups[-1] if groups else None
        if last is not None and last[0].call == link.call and _joins(last, link, watch):
            last.append(link)
        else:
            groups.append([link])
    return groups


def _joins(group: Sequence[Link], link: Link, watch: ForwardWatch) -> bool:
    kinds = {item.kind for item in (*group, link)} - {"other"}
    if not _leaf([link], watch):
        return not kinds
    return len(kinds) <= 1 or "block" in kinds


def _kind(group: Sequence[Link], watch: ForwardWatch | None = None) -> Kind:
    call = group[0].call
    if watch is not None and call >= 0 and isinstance(watch.calls[call].module, nn.RNNBase):
        # a recurrent layer may be one node: weights and slopes of all times in one factor
        return "block"
    kinds = {link.kind for link in group} - {"other"}
    if "block" in kinds:
        return "block"
    return next(iter(kinds), "other")


def _gain(group: Sequence[Link]) -> float | None:
    top, bottom = group[0].top, group[-1].bottom
    return None if not top > 0 else bottom / top


def _leaf(group: Sequence[Link], watch: ForwardWatch) -> bool:
    return group[0].call >= 0 and watch.calls[group[0].call].leaf


def _quiet(group: Sequence[Link], watch: ForwardWatch) -> bool:
    named = _leaf(group, watch)
    only_shape = all(shape_only(node) for link in group for node in link.nodes)
    return only_shape or (not named and _kind(group) == "other")


def _operations(links: Sequence[Link]) -> str:
    names = [operation(node) for link in links for node in link.nodes if not shape_only(node)]
    return ", ".join(dict.fromkeys(names))


def _label(group: Sequence[Link], links: Sequence[Link], watch: ForwardWatch) -> tuple[str, str]:
    """The name of a factor and its type."""
    call = group[0].call
    operations = _operations(group) or "reshape"
    if _leaf(group, watch):
        return call_name(watch, call), type(watch.calls[call].module).__name__
    if _kind(group) == "block" and call >= 0:
        part = ways.span(group, call, watch)
        return f"{call_name(watch, call)}{part}", type(watch.calls[call].module).__name__
    short = operations if len(operations) <= 40 else f"{operations[:38]} …"
    if call >= 0 and watch.calls[call].name:
        return f"{call_name(watch, call)} ({short})", "function"
    at = next(i for i, link in enumerate(links) if link is group[0])
    after = neighbour(links[:at][::-1], call, watch)
    before = neighbour(links[at + len(group) :], call, watch)
    return f"{before or 'input'} -> {after or 'output'}", short


def _end(found: Paths, watch: ForwardWatch) -> str:
    leaves = [node for node in found.sources if type(node).__name__ == "AccumulateGrad"]
    if leaves:
        return "the input"
    names = [watch.innermost(node) for node in found.sources]
    known = [call_name(watch, index) for index in names if index >= 0]
    if found.sources and operation(found.sources[0]).startswith("embedding"):
        return f"the embedding {' and '.join(known)}".strip()
    return f"the first layer {known[0]}" if known else "the first operation"
