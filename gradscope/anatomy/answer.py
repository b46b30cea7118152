"""The loss at the end of a graph: its scores, its target and where the model gave them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.autograd.graph import Node

from gradscope.anatomy.differences import MADE_BY, Difference, difference, near, same_order
from gradscope.anatomy.kinds import operation
from gradscope.observe.autograd.loss import loss_facts
from gradscope.observe.autograd.loss_terms import LossFacts
from gradscope.observe.autograd.step_graph import Edge, ForwardWatch
from gradscope.observe.autograd.walk import Walk
from gradscope.observe.private import node_sequence_nr, saved

CLASSES = ("nll_loss", "nll_loss2d", "nll_loss_nd")
VALUES = ("mse_loss", "smooth_l1_loss", "huber_loss", "l1_loss")
BINARY = ("binary_cross_entropy_with_logits", "binary_cross_entropy")


@dataclass(frozen=True)
class Answer:
    """What the loss compares.

    Attributes:
        operation: as in ``facts.LOSSES``; ``other:…`` where it is not known.
        kind: ``classes``, ``yes-no``, ``values`` or ``unknown``.
        scores: what the model gave: ``[positions, classes]`` log-probabilities for classes, else
            flat values.
        target: classes ``[positions]``, or flat values; None where the graph did not keep it.
        valid: positions that count.
        edge: the loss's input in the graph.
        nodes: sequence numbers from the loss's input back to what made it.
        plain: it is the loss itself, without weights, smoothing or further terms.
        reduction: ``mean``, ``sum``, ``none`` or None.
        terms: loss operations at the end of the graph.
        bend: Huber's delta, smooth L1's beta: the distance at which the loss becomes straight.
        difference: flat output − target, where the graph kept nothing else of the two.
    """

    operation: str
    kind: str
    scores: Tensor | None = None
    target: Tensor | None = None
    valid: Tensor | None = None
    edge: Edge | None = None
    nodes: tuple[int, ...] = ()
    plain: bool = False
    reduction: str | None = None
    terms: int = 1
    bend: float | None = None
    difference: Tensor | None = None


def answer(loss: Tensor) -> Answer:
    """Read the loss operation that a loss ends in, while its graph is whole."""
    found = loss_facts(loss)
    known = [fact for fact in found if not fact.operation.startswith("other:")]
    if not known or loss.grad_fn is None:
        return Answer(found[0].operation if found else "unknown", "unknown")
    main = known[0]
    node = _node(loss.grad_fn, main.operation)
    if node is None:
        # written out by hand: only then, since a square may stand inside the model as well
        made = main.operation in MADE_BY
        off = difference(loss.grad_fn, main.operation) if made else None
        if off is not None:
            return _values_apart(loss, off, main, len(found))
        return Answer(main.operation, "unknown", nodes=main.input_nodes, terms=len(found))
    name = operation(node)
    if name in CLASSES:
        return _classes(loss, node, main, len(found))
    scores, target = saved(node, "self"), saved(node, "target")
    flat = scores.flatten() if isinstance(scores, Tensor) else None
    wanted = target.flatten() if isinstance(target, Tensor) else None
    if flat is None or (wanted is not None and wanted.shape != flat.shape):
        return Answer(main.operation, "unknown", nodes=main.input_nodes, terms=len(found))
    added = _added(loss, main, main.value, flat.numel())
    weights = saved(node, "weight"), saved(node, "pos_weight")
    bend = saved(node, "delta" if main.operation == "huber" else "beta")
    return Answer(
        main.operation, "yes-no" if name in BINARY else "values", flat, wanted, None,
        _first_edge(node), main.input_nodes,
        added is not None and len(found) == 1 and all(weight is None for weight in weights),
        added or main.reduction, len(found), float(bend) if bend is not None else None,
    )  # fmt: skip


def _values_apart(loss: Tensor, off: Difference, main: LossFacts, terms: int) -> Answer:
    sizes = off.values.abs() if main.operation == "l1" else off.values.square()
    added = _added(loss, main, sizes.mean(), sizes.numel())
    return Answer(
        main.operation, "unknown", edge=off.edge, nodes=main.input_nodes,
        plain=added is not None and terms == 1, reduction=added or main.reduction, terms=terms,
        difference=off.values,
    )  # fmt: skip


def _classes(loss: Tensor, node: Node, main: LossFacts, terms: int) -> Answer:
    named, nodes = main.operation, main.input_nodes
    scores, target = saved(node, "self"), saved(node, "target")
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor):
        return Answer(named, "unknown", nodes=nodes, terms=terms)
    axis = 1 if scores.dim() > 1 else 0
    rows = scores.movedim(axis, -1).reshape(-1, scores.shape[axis])
    labels = target.reshape(-1)
    ignored = saved(node, "ignore_index")
    ignored = ignored - 2**64 if isinstance(ignored, int) and ignored >= 2**63 else ignored
    valid = labels != ignored
    edge = _first_edge(node)
    if edge is not None and named == "cross_entropy":
        softmax: Node | None = edge[0]
        while softmax is not None and operation(softmax) != "log_softmax":
            softmax = softmax.next_functions[0][0]
        edge = None if softmax is None else _first_edge(softmax)
    added = None
    if bool(valid.any()):
        # minus the log-probabilities of the truth itself: a smoothed loss is not their mean
        own = -rows.double().gather(1, labels.clamp(0, rows.shape[1] - 1)[:, None])[valid]
        added = _added(loss, main, own.mean(), own.numel())
    plain = terms == 1 and added is not None and saved(node, "weight") is None
    return Answer(
        named, "classes", rows, labels, valid, edge, nodes, plain, added or main.reduction, terms
    )


def _added(loss: Tensor, main: LossFacts, mean: Tensor | None, count: int) -> str | None:
    """Whether a loss is the ``mean`` or the ``sum`` of its elements; None: neither.

    Where the operation reduced nothing itself, what was done after it shows in the value.
    """
    value = loss.detach()
    if mean is None or value.dim():
        return None
    asked = (main.reduction,) if main.reduction in ("mean", "sum") else ("mean", "sum")
    values = {"mean": mean, "sum": mean.double() * count}
    return next((each for each in asked if each and near(values[each], value)), None)


def _first_edge(node: Node) -> Edge | None:
    child, output = node.next_functions[0]
    return None if child is None else (child, output)


def _node(start: Node, named: str) -> Node | None:
    wanted = {
        "cross_entropy": CLASSES, "nll": CLASSES, "mse": ("mse_loss",), "l1": ("l1_loss",),
        "smooth_l1": ("smooth_l1_loss",), "huber": ("huber_loss",),
        "bce": ("binary_cross_entropy",), "bce_with_logits": BINARY[:1],
    }.get(named, ())  # fmt: skip
    if not wanted:
        return None
    for node, _ in Walk([start], 2_000):
        if operation(node) in wanted:
            return node
    return None


@dataclass(frozen=True)
class Place:
    """Where the model gave the loss's input: a call, which of its outputs, and its layout.

    Attributes:
        call: index of the call.
        output: which of its tensors.
        classes_last: its elements stand as ``[positions, classes]``, classes last; otherwise the
            classes are axis 1.
    """

    call: int
    output: int
    classes_last: bool = True

    def flat_index(self, tensor: Tensor, position: int, column: int) -> int:
        """Index into the flattened output of one column (class) at one position."""
        if self.classes_last or tensor.dim() < 3:
            return position * tensor.shape[-1] + column
        inner = tensor[0, 0].numel()
        return (position // inner) * tensor.shape[1] * inner + column * inner + position % inner


def place_of(found: Answer, watch: ForwardWatch) -> Place | None:
    """The outermost module output that is the loss's input, through reshapes at most."""
    numbers = set(found.nodes)
    if found.edge is not None:
        numbers.add(node_sequence_nr(found.edge[0]))
    numbers.discard(-1)
    kept = found.scores if found.difference is None else found.difference
    size = None if kept is None else kept.numel()
    for index, call in enumerate(watch.calls):
        for output, edge in enumerate(call.edges):
            if edge is None or node_sequence_nr(edge[0]) not in numbers:
                continue
            tensor = call.outputs[output]
            if size is not None and tensor.numel() != size:
                continue
            last = True
            if found.kind == "classes" and found.scores is not None and tensor.dim() > 2:
                last = tensor.shape[-1] == found.scores.shape[-1]
            return Place(index, output, last)
    return None


def completed(found: Answer, place: Place | None, watch: ForwardWatch) -> Answer:
    """An answer of which the graph kept only output − target, with the two of them.

    The output is read where the model gave it; unchanged where that is not certain.
    """
    if found.difference is None or found.edge is None or place is None:
        return found
    call = watch.calls[place.call]
    edge = call.edges[place.output]
    if edge is None or not same_order(found.edge[0], edge[0]):
        return found
    scores = call.outputs[place.output].double().flatten()
    return replace(found, kind="values", scores=scores, target=scores - found.difference)
