"""One training step taken apart: every part of ``Anatomy``, from one real step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.anatomy import (
    answer_words,
    biases,
    chain,
    forward,
    loss_words,
    reasons,
    shown,
    update,
)
from gradscope.anatomy.answer import Answer, Place, answer, completed, place_of
from gradscope.anatomy.attribution import driven
from gradscope.anatomy.facts import Anatomy, Attribution, Chain, Identity, Inputs, Update
from gradscope.anatomy.paths import input_nodes, paths
from gradscope.anatomy.paths import place_of as cut_of
from gradscope.anatomy.subject import Subject
from gradscope.observe.autograd.step_graph import ForwardWatch, gradients_at
from gradscope.observe.reading.containers import tensors_in


@dataclass(frozen=True)
class About:
    """What a trace is of, in words; see ``Anatomy``."""

    target: str
    sample: str
    mode: str
    steps: int
    assumptions: tuple[str, ...] = ()
    reproduce: str = ""


def take_apart(subject: Subject, about: About, *, integrated: bool = False) -> Anatomy:
    """Take one training step and take it apart.

    The optimizer's step is really taken; who wants the model back as it was puts it back.

    Args:
        subject: the sample and its training.
        about: what it is, in words.
        integrated: also compute integrated gradients.
    """
    measured = _measured(subject)
    loss, watch = subject.run()
    found = paths(loss, input_nodes(loss, watch))
    said = answer(loss)
    place = place_of(said, watch)
    said = completed(said, place, watch)
    position = answer_words.position_of(said)
    rows = forward.rows(loss, watch)
    nodes = dict.fromkeys(chain.wanted(found, watch))
    # hooks of module outputs that no way of the chain passes: weights need their errors, too
    for call in watch.calls:
        if call.leaf and call.edges and call.edges[0] is not None:
            nodes.setdefault(call.edges[0][0])
    if said.edge is not None:
        nodes.setdefault(said.edge[0])
    subject.optimizer.zero_grad()
    with gradients_at(nodes) as seen:
        loss.backward()
    derivative = None
    if said.edge is not None and said.edge[0] in seen:
        outputs = seen[said.edge[0]].outputs
        derivative = outputs[said.edge[1]] if said.edge[1] < len(outputs) else None
    links = chain.chain(found, watch, seen, cut_of(found, said.nodes), measured)
    labels = None
    if said.kind == "classes" and said.scores is not None:
        labels = [subject.names.of_class(i) for i in range(said.scores.shape[1])]
    derivative = _as_scores(derivative, said)
    loss_facts = loss_words.loss_rows(said, float(loss.detach()), derivative, position, labels)
    predicted = answer_words.prediction(
        said, position, subject.names, _output(said, place, watch, position),
        "position" if subject.whole is not None else "sample",
    )  # fmt: skip
    why = reasons.sources(subject.model, watch, seen)
    inputs = _inputs(subject, said, place, watch, position, integrated=integrated)
    taken = update.take(subject, loss)
    small = update.small_steps(subject, taken)
    moved = update.report(subject, taken, small, why)
    parameter = next(iter(subject.model.parameters()), None)
    return Anatomy(
        target=about.target, model=type(subject.model).__name__, sample=about.sample,
        mode=about.mode, steps=about.steps,
        device=str(parameter.device) if parameter is not None else "cpu",
        dtype=str(parameter.dtype).removeprefix("torch.") if parameter is not None else "",
        forward=rows, prediction=predicted, loss=loss_facts, chain=links, inputs=inputs,
        update=moved, identities=_identities(
            links, said, derivative, inputs, moved, torch.finfo(loss.dtype).eps
        ),
        assumptions=about.assumptions, reproduce=about.reproduce,
    )  # fmt: skip


def _measured(subject: Subject) -> float:
    """Norm of the loss gradient at the input, from a backward pass without any hook on a node."""
    loss, watch = subject.run()
    if loss.grad_fn is None:
        return math.nan
    if watch.leaves:
        inputs = watch.leaves
    else:
        found = [(watch.innermost(node), node) for node in input_nodes(loss, watch)]
        inputs = [
            watch.calls[index].live[0]
            for index, node in found
            if index >= 0 and watch.calls[index].live
            and watch.calls[index].live[0].grad_fn is node
        ]  # fmt: skip
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    if not inputs:
        return math.nan
    return chain.norm(torch.autograd.grad(loss, inputs, allow_unused=True))


def _as_scores(derivative: Tensor | None, said: Answer) -> Tensor | None:
    """The derivative at the loss's input, in the layout of its scores."""
    if derivative is None or said.scores is None or derivative.numel() != said.scores.numel():
        return None
    if said.kind == "classes" and derivative.dim() > 2:
        last = derivative.shape[1] != said.scores.shape[1]
        derivative = derivative if last else derivative.movedim(1, -1)
    return derivative.reshape(said.scores.shape)


def _output(said: Answer, place: Place | None, watch: ForwardWatch, position: int) -> Tensor | None:
    if place is not None and said.kind == "classes" and said.scores is not None:
        tensor = watch.calls[place.call].outputs[place.output]
        flat = tensor.flatten()
        width = said.scores.shape[1]
        indices = [place.flat_index(tensor, position, column) for column in range(width)]
        return flat[indices]
    if said.kind == "unknown":
        root = next((call for call in watch.calls if call.parent < 0 and call.outputs), None)
        return None if root is None else root.outputs[0]
    return None


def _inputs(
    subject: Subject,
    said: Answer,
    place: Place | None,
    watch: ForwardWatch,
    position: int,
    *,
    integrated: bool,
) -> Inputs:
    single = _single(subject, watch)
    if not single:
        return Inputs((), "Which inputs drove the answer is shown for one sample at a time.")
    scores = _scores(said, place, watch, position, subject)
    if place is None or not scores:
        return Inputs((), "The model's output could not be told apart from the loss.")
    found: list[Attribution] = []
    for target, index in scores:
        made = driven(subject, place, index, integrated=integrated)
        if made is None:
            return Inputs((), "No gradient reaches the input: it is cut on the way, or no number.")
        main = max(made.inputs, key=lambda tensor: tensor.numel())
        whole = _whole(subject, main)
        form, size, note = shown.form_of(subject.model, main, made.tokens, subject.names, whole)
        found.append(shown.attribution(made, target, form, size, subject.names, note))
    return Inputs(tuple(found))


def _single(subject: Subject, watch: ForwardWatch) -> bool:
    tensors = watch.leaves or watch.tokens
    return bool(tensors) and all(tensor.dim() > 0 for tensor in tensors) and (
        subject.whole is not None or len(tensors[0]) == 1
    )  # fmt: skip


def _whole(subject: Subject, sample: Tensor) -> Tensor | None:
    """The whole batch's tensor that the sample is a row of."""
    for tensor in tensors_in(subject.whole):
        if tensor.is_floating_point() and tensor.shape[1:] == sample.shape[1:]:
            return tensor.detach()
    return None


def _scores(
    said: Answer, place: Place | None, watch: ForwardWatch, position: int, subject: Subject
) -> list[tuple[str, int]]:
    """The scores to be explained, as flat indices of the model's output."""
    if place is None or said.scores is None:
        return []
    tensor = watch.calls[place.call].outputs[place.output]
    if said.kind == "classes":
        row = said.scores[position]
        top = int(row.argmax())
        wanted = [top]
        if said.target is not None and said.valid is not None and bool(said.valid[position]):
            truth = int(said.target[position])
            wanted += [truth] if truth != top else []
        names = subject.names
        return [
            (f"the score of `{names.of_class(c)}`", place.flat_index(tensor, position, c))
            for c in wanted
        ]
    if said.scores.numel() != tensor.numel():
        return []
    target = said.target
    if target is None or tensor.numel() == 1:
        return [("the output" if tensor.numel() == 1 else "output 0", 0)]
    values = said.scores.sigmoid() if said.operation == "bce_with_logits" else said.scores
    index = int((values.double() - target.double()).abs().nan_to_num(nan=0).argmax())
    return [(f"output {index}, the one farthest from its target", index)]


def _identity(
    name: str, left: float, right: float, limit: float, meaning: str, rounding: float = 0.0
) -> Identity:
    size = max(abs(left), abs(right))
    error = 0.0 if left == right else abs(left - right) / size if size > 0 else math.nan
    return Identity(name, left, right, error, limit, meaning, rounding)


def _identities(
    links: Chain,
    said: Answer,
    derivative: Tensor | None,
    inputs: Inputs,
    moved: Update,
    unit: float,
) -> tuple[Identity, ...]:
    found: list[Identity] = []
    if links.factors and not math.isnan(links.measured):
        found.append(_identity(
            "product of the factors", links.product, links.measured, 1e-4,
            f"The product of all factors is the norm of the loss gradient at {links.ends}, which a "
            "second backward pass gives without them.",
        ))  # fmt: skip
        parts = links.weight * links.activation * links.other * links.block * links.loss
        found.append(_identity(
            "product of the parts", parts, links.product, 1e-6,
            "Weights, activations, blocks, the loss and everything else multiply to the whole.",
        ))  # fmt: skip
    textbook = loss_words.formula(said)
    if textbook is not None and derivative is not None:
        size = float(textbook.norm())
        found.append(_identity(
            "derivative of the loss", size, float(derivative.double().norm()), 1e-4,
            "The derivative that backward gives at the output is that of the textbook's formula.",
        ))  # fmt: skip
    for each in inputs.attributions:
        if not math.isnan(each.bias_sum) and biases.agrees(
            each.product_sum, each.bias_sum, each.score
        ):
            found.append(_identity(
                f"gradient × input of {each.target}", each.product_sum + each.bias_sum, each.score,
                1e-3, "In a network that is linear in pieces, gradient × input and what the biases "
                "add are the score.",
            ))  # fmt: skip
        if each.points:
            found.append(_identity(
                f"integrated gradients of {each.target}", each.integrated_sum,
                each.score - each.baseline, 0.05,
                "Integrated gradients add up to the difference of the score between the input and "
                "an input of zeros.",
                # each score is rounded by the model's own arithmetic, a few units in the last
                # place; and where large parts cancel, the points on the way tell no smaller sum
                16 * unit * max(abs(each.score), abs(each.baseline))
                + 2e-3 * sum(map(abs, each.integrated)),
            ))  # fmt: skip
    if not math.isnan(moved.descent):
        found.append(_identity(
            "gradient descent", moved.descent, moved.predicted, 1e-3,
            "For plain gradient descent ⟨gradient, step⟩ is −lr·‖gradient‖².",
        ))  # fmt: skip
    ratio = update.quartering(moved.small)
    if not math.isnan(ratio):
        found.append(_identity(
            "halving the step", ratio, 4.0, 0.3,
            "At each halving of the step the miss of the slope's promise falls to a quarter.",
        ))  # fmt: skip
    return tuple(found)
