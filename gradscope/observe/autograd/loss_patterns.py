"""Patterns of autograd nodes that are loss operations, and the facts in their saved tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.graph import Node

from gradscope.observe.autograd.loss_terms import (
    Found,
    LossFacts,
    Path,
    edge,
    is_operation,
    source,
    way_to_source,
)
from gradscope.observe.autograd.operations import node_operation
from gradscope.observe.private import node_sequence_nr, output_shape, saved
from gradscope.observe.reading.target import binary_target, class_target, float_target, soft_target

_REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}


Matcher = Callable[[Node, Path], Found | None]


def _input(node: Node | None, tensor: Tensor | None) -> dict[str, Any]:
    """Columns about the loss's input, given the node that made it and its value."""
    way = way_to_source(node)
    shape = None if tensor is None else tuple(tensor.shape)
    if is_operation(node, "expand"):
        before = saved(node, "self_sym_sizes") if node is not None else None
        shape = tuple(int(size) for size in before) if before is not None else shape
    return {
        "input_operation": way[-1].name() if way else None,
        "input_nodes": tuple(node_sequence_nr(each) for each in way),
        "input_shape": shape,
    }


def _shape(target: Tensor) -> tuple[int, ...]:
    pairs = zip(target.shape, target.stride(), strict=True)
    return tuple(1 if stride == 0 else size for size, stride in pairs)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _reduction(node: Node) -> str | None:
    return _REDUCTIONS.get(saved(node, "reduction"))


def _signed(node: Node, name: str) -> int:
    """A saved integer; torch shows negative ones as unsigned."""
    value = int(saved(node, name))
    return value - 2**64 if value >= 2**63 else value


def _mean(elements: Tensor, kept: Tensor | None) -> Tensor:
    return elements.mean() if kept is None else (elements * kept).sum() / kept.sum()


def _nll(node: Node, path: Path) -> Found | None:
    scores, labels, weight = (saved(node, name) for name in ("self", "target", "weight"))
    made = source(edge(node, 0))
    log_softmax = made if is_operation(made, "log_softmax") else None
    operation = "cross_entropy" if log_softmax is not None else "nll"
    if scores is None or labels is None:
        return Found(LossFacts(operation, reduction=_reduction(node)))
    ignored = _signed(node, "ignore_index")
    kept = path.kept(labels.shape)
    labels = labels if kept is None else labels.masked_fill(~kept, ignored)
    classes = scores.shape[1 if scores.dim() > 1 else 0]
    logits = scores if log_softmax is None else saved(log_softmax, "result")
    before = edge(node, 0) if log_softmax is None else edge(log_softmax, 0)
    facts = LossFacts(
        operation,
        reduction=_reduction(node),
        target_shape=tuple(labels.shape),
        classes=classes,
        **_input(before, logits if logits is not None else scores),
    )

    def smoothed(amount: float) -> LossFacts:
        common = {"weight": weight, "ignore_index": ignored}
        if amount:
            # normalised log-probabilities are logits of themselves
            value = F.cross_entropy(_float(scores), labels, label_smoothing=amount, **common)
        else:
            value = F.nll_loss(_float(scores), labels, **common)
        target = class_target(
            labels, classes, ignore_index=ignored, class_weight=weight, smoothing=amount
        )
        return replace(facts, value=value, target=target)

    return Found(smoothed(0.0), path.scale, log_softmax, smoothed=smoothed)


def _log_softmax(node: Node, path: Path) -> Found | None:
    """A log_softmax that arithmetic reads: soft targets, KL divergence, a half of smoothing."""
    scores = saved(node, "result")
    operation = "kl_div" if path.subtracted else "cross_entropy"
    if scores is None:
        return None
    factors = [weight for weight in path.weights if weight.dim() == scores.dim()]
    if not any(weight.shape == scores.shape for weight in factors):
        return Found(LossFacts(f"other:{node.name()}"), path.scale, node, even=True)
    mass = torch.ones_like(scores)
    for factor in factors:
        mass = mass * factor
    axis = _signed(node, "dim")
    classes = scores.shape[axis]
    rows = max(scores.numel() // max(classes, 1), 1)
    total = -(mass * scores)
    if path.subtracted:
        total = total + torch.special.xlogy(mass, mass)
    facts = LossFacts(
        operation,
        value=_float(total).sum() / rows,
        reduction=path.reduction,
        target_shape=tuple(scores.shape),
        classes=classes,
        target=soft_target(mass, axis, divergence=path.subtracted),
        **_input(edge(node, 0), scores),
    )
    return Found(facts, path.scale, node)


def _picked(node: Node, path: Path) -> Found | None:
    """Log-probabilities picked by class: a hand-written cross-entropy."""
    made = source(edge(node, 0))
    if made is None or not (is_operation(made, "log_softmax") or is_operation(made, "log")):
        return None
    if any(weight.dtype != torch.bool for weight in path.weights):
        # log-probabilities of actions times advantages: a policy gradient, no classification
        return Found(LossFacts(f"other:{node.name()}"))
    inside = saved(made, "self")
    scores = saved(made, "result") if inside is None else inside.log()
    if scores is None:
        return None
    labels, picked, classes = _labels(node, scores)
    if labels is None or picked is None:
        return None
    soft = is_operation(made, "log_softmax")
    kept = path.kept(picked.shape)
    if kept is not None:
        labels = labels.masked_fill(~kept.reshape(labels.shape), -100)
    facts = LossFacts(
        "cross_entropy" if soft else "nll",
        value=-_mean(_float(picked), kept),
        reduction=path.reduction,
        target_shape=tuple(labels.shape),
        classes=classes,
        target=class_target(labels, classes),
        **_input(edge(made, 0) if soft else made, scores),
    )
    return Found(facts, path.scale)


def _labels(node: Node, scores: Tensor) -> tuple[Tensor | None, Tensor | None, int]:
    if is_operation(node, "gather"):
        axis, index = _signed(node, "dim") % max(scores.dim(), 1), saved(node, "index")
        if index is None or index.dim() != scores.dim() or index.shape[axis] != 1:
            return None, None, 0
        return index.squeeze(axis), scores.gather(axis, index), scores.shape[axis]
    indices = saved(node, "indices")
    if not indices or len(indices) != scores.dim() or any(i is None for i in indices):
        return None, None, 0
    if any(index.dtype == torch.bool for index in indices):
        return None, None, 0
    return indices[-1], scores[tuple(indices)], scores.shape[-1]


def _difference(node: Node, path: Path) -> Found | None:
    """The square or the absolute value of a difference: a hand-written mse or l1."""
    operation = node_operation(node.name())
    below = source(edge(node, 0))
    if not is_operation(below, "sub") or below is None:
        return None
    difference = saved(node, "self")
    if operation == "mul" and source(edge(node, 1)) is not below:
        return None
    if operation == "pow" and saved(node, "exponent") != 2:
        return None
    if difference is None or difference.dim() == 0:
        return None
    elements = _float(difference)
    elements = elements.abs() if operation == "abs" else elements.square()
    prediction, number = next(e for e in below.next_functions if e[0] is not None)
    described = _input(prediction, difference)
    made = None if prediction is None else output_shape(prediction, number)
    if made is not None:
        # the difference may be larger than both its sides: broadcasting leaves no node here
        described["input_shape"] = made
    facts = LossFacts(
        "l1" if operation == "abs" else "mse",
        value=_mean(elements, path.kept(elements.shape)),
        reduction=path.reduction,
        element_shape=tuple(difference.shape),
        **described,
    )
    return Found(facts, path.scale)


def _elementwise(operation: str, formula: Callable[[Tensor, Tensor, Node], Tensor]) -> Matcher:
    def match(node: Node, path: Path) -> Found | None:
        prediction, target = saved(node, "self"), saved(node, "target")
        facts = LossFacts(operation, reduction=_reduction(node))
        if prediction is None or target is None:
            return Found(facts, path.scale)
        elements = formula(_float(prediction), _float(target), node)
        kept = path.kept(elements.shape)
        if operation.startswith("bce"):
            weights = {
                "weight": saved(node, "weight"),
                "positive_weight": saved(node, "pos_weight"),
            }
            statistics = binary_target(target, kept=kept, **weights)
        else:
            statistics = float_target(target, squared=operation == "mse", kept=kept)
        facts = replace(
            facts,
            value=_mean(elements, kept),
            target_shape=_shape(target),
            element_shape=tuple(prediction.shape),
            target=statistics,
            **_input(edge(node, 0), prediction),
        )
        return Found(facts, path.scale)

    return match


def _bce(prediction: Tensor, target: Tensor, node: Node) -> Tensor:
    return F.binary_cross_entropy(prediction, target, saved(node, "weight"), reduction="none")


def _bce_with_logits(prediction: Tensor, target: Tensor, node: Node) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        prediction,
        target,
        saved(node, "weight"),
        reduction="none",
        pos_weight=saved(node, "pos_weight"),
    )


def _smooth_l1(prediction: Tensor, target: Tensor, node: Node) -> Tensor:
    return F.smooth_l1_loss(prediction, target, reduction="none", beta=saved(node, "beta"))


def _huber(prediction: Tensor, target: Tensor, node: Node) -> Tensor:
    return F.huber_loss(prediction, target, reduction="none", delta=saved(node, "delta"))


def _ctc(node: Node, path: Path) -> Found | None:
    losses, scores, labels = (saved(node, name) for name in ("result0", "log_probs", "targets"))
    lengths = saved(node, "target_lengths")
    facts = LossFacts("ctc", reduction=path.reduction)
    if losses is None or scores is None or labels is None or lengths is None:
        return Found(facts, path.scale)
    each = torch.as_tensor(lengths, device=losses.device).clamp(min=1).to(losses.dtype)
    losses = losses.masked_fill(losses.isinf(), 0) if saved(node, "zero_infinity") else losses
    made = source(edge(node, 0))
    soft = is_operation(made, "log_softmax") and made is not None
    facts = replace(
        facts,
        value=(losses / each).mean(),
        target_shape=tuple(labels.shape),
        classes=scores.shape[-1],
        **_input(edge(made, 0) if soft and made is not None else edge(node, 0), scores),
    )
    return Found(facts, path.scale)


MATCHERS: dict[str, Matcher] = {
    "nll_loss": _nll,
    "nll_loss2d": _nll,
    "log_softmax": _log_softmax,
    "gather": _picked,
    "index": _picked,
    "pow": _difference,
    "mul": _difference,
    "abs": _difference,
    "mse_loss": _elementwise("mse", lambda p, t, _: (p - t).square()),
    "l1_loss": _elementwise("l1", lambda p, t, _: (p - t).abs()),
    "smooth_l1_loss": _elementwise("smooth_l1", _smooth_l1),
    "huber_loss": _elementwise("huber", _huber),
    "binary_cross_entropy": _elementwise("bce", _bce),
    "binary_cross_entropy_with_logits": _elementwise("bce_with_logits", _bce_with_logits),
    "ctc_loss": _ctc,
}
"""What may be a loss, by the operation of its node; a matcher answers None where it is none."""
