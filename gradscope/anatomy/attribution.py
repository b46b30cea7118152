"""Which inputs drove a score: its gradient, gradient × input, integrated gradients.

Integrated gradients (Sundararajan, Taly and Yan 2017, "Axiomatic attribution for deep networks",
equation 1) go from an input of zeros to the sample, average the gradient over the way and multiply
it by the input; they add up to the difference of the two scores (their proposition 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.anatomy import biases
from gradscope.anatomy.answer import Place
from gradscope.anatomy.names import call_name
from gradscope.anatomy.paths import input_nodes, paths
from gradscope.anatomy.subject import Subject
from gradscope.observe.autograd.step_graph import ForwardWatch, NodeGradients, gradients_at

FIRST_POINTS, MOST_POINTS = 32, 512
CLOSE = 0.01
"""Points are doubled until the sum misses the difference of the scores by less than this share."""


@dataclass(frozen=True)
class Driven:
    """The inputs of one score and its derivatives.

    Attributes:
        inputs: floating inputs, or the embedded tokens.
        tokens: the token numbers, where the inputs are embedded tokens; else None.
        score: the score.
        gradients: like ``inputs``.
        integrated: like ``inputs``; () where not asked for.
        baseline: the score at zeros; NaN without ``integrated``.
        points: points on the way; 0 without ``integrated``.
        linear: the network is linear in pieces, so gradient × input and biases are the score.
        bias_sum: what the biases add; NaN where that is not so.
    """

    inputs: tuple[Tensor, ...]
    tokens: Tensor | None
    score: float
    gradients: tuple[Tensor, ...]
    integrated: tuple[Tensor, ...]
    baseline: float
    points: int
    linear: bool
    bias_sum: float


def driven(subject: Subject, place: Place, index: int, *, integrated: bool) -> Driven | None:
    """Attribute one score to the inputs; None where no input has a gradient.

    Args:
        subject: what is traced.
        place: where the model gives its scores.
        index: of the score, in the flattened output.
        integrated: also integrated gradients.
    """
    loss, watch = subject.run()
    inputs, tokens, changed = _inputs(loss, watch)
    score = watch.calls[place.call].live[place.output].flatten()[index]
    if not inputs or score.grad_fn is None:
        return None
    nodes = [call.edges[0][0] for call in biases.carriers(watch) if call.edges[0] is not None]
    found = paths(score, input_nodes(loss, watch))
    seen: dict[Node, NodeGradients]
    with gradients_at([node for node in nodes if node in found]) as seen:
        gradients = torch.autograd.grad(score, inputs, allow_unused=True, retain_graph=True)
    known = [(t, g) for t, g in zip(inputs, gradients, strict=True) if g is not None]
    if not known:
        return None
    linear = biases.piecewise_linear(found, training=subject.model.training)
    values = tuple(tensor.detach().clone() for tensor, _ in known)
    kept = [i for i, g in enumerate(gradients) if g is not None]
    way: tuple[tuple[Tensor, ...], float, int] = ((), math.nan, 0)
    if integrated:
        way = _integrated(subject, place, index, float(score.detach()), values, kept, changed)
    return Driven(
        values, tokens, float(score.detach()), tuple(g.detach() for _, g in known), way[0],
        way[1], way[2], linear, biases.bias_sum(watch, seen) if linear else math.nan,
    )  # fmt: skip


def _inputs(
    loss: Tensor, watch: ForwardWatch
) -> tuple[list[Tensor], Tensor | None, tuple[str, ...]]:
    """Tensors that stand for the input, the tokens behind them, and the modules that embed them."""
    if watch.leaves:
        return list(watch.leaves), None, ()
    found: dict[int, None] = {}
    for node in input_nodes(loss, watch):
        index = watch.innermost(node)
        if index >= 0 and watch.calls[index].live and "Embedding" in node.name():
            found[index] = None
    tensors = [watch.calls[index].live[0] for index in found]
    names = tuple(dict.fromkeys(watch.calls[index].name for index in found))
    tokens = watch.tokens[0] if watch.tokens and tensors else None
    return [t for t in tensors if t.requires_grad], tokens, names


def _integrated(
    subject: Subject,
    place: Place,
    index: int,
    score: float,
    inputs: Sequence[Tensor],
    kept: Sequence[int],
    embeddings: tuple[str, ...],
) -> tuple[tuple[Tensor, ...], float, int]:
    """Integrated gradients by the midpoint rule, the score at zeros, and the points it took."""

    def at(share: float, *, slope: bool) -> tuple[float, list[Tensor]]:
        loss, watch = subject.run(
            source=lambda _position, tensor: tensor * share,
            outputs={name: lambda out: out * share for name in embeddings},
        )
        tensors = [_inputs(loss, watch)[0][i] for i in kept]
        value = watch.calls[place.call].live[place.output].flatten()[index]
        if not slope:
            return float(value.detach()), []
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        return float(value.detach()), [
            torch.zeros_like(t) if g is None else g.detach()
            for t, g in zip(tensors, found, strict=True)
        ]

    baseline = at(0.0, slope=False)[0]
    points = FIRST_POINTS
    while True:
        sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in inputs]
        for step in range(points):
            for total, gradient in zip(sums, at((step + 0.5) / points, slope=True)[1], strict=True):
                total += gradient.double()
        result = tuple(
            tensor.double() * total / points for tensor, total in zip(inputs, sums, strict=True)
        )
        total_sum = float(sum(float(part.sum()) for part in result))
        miss = abs(total_sum - (score - baseline))
        # where large parts cancel, the whole is small beside what the rule can tell apart
        parts = float(sum(float(part.abs().sum()) for part in result))
        close = CLOSE * max(abs(score - baseline), 0.1 * parts)
        if miss <= close or points >= MOST_POINTS:
            return result, baseline, points
        points *= 2


def embedded_by(watch: ForwardWatch, loss: Tensor) -> str:
    """Names of the embeddings that stand for the input, for a sentence."""
    names = [watch.innermost(node) for node in input_nodes(loss, watch)]
    return ", ".join(call_name(watch, index) for index in names if index >= 0)
