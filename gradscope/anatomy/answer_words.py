"""The prediction and the loss in words and rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.anatomy.answer import Answer
from gradscope.anatomy.facts import ClassScore, LossFacts, LossSlope, Prediction, ValueRow
from gradscope.anatomy.subject import Names
from gradscope.diagnose.wording import number, percent

SHOWN = 6
"""Answers or values that are listed."""
_MEANING = {
    "cross_entropy": "Cross-entropy is minus the logarithm of the probability that the model gave "
    "to the truth: 0 if it was certain of it, and without limit the less it believed it.",
    "nll": "The loss is minus the log-probability that the model gave to the truth.",
    "mse": "Mean squared error is the square of the distance between output and target, averaged "
    "over the outputs.",
    "bce_with_logits": "Binary cross-entropy is minus the logarithm of the probability that the "
    "model gave to the right answer of each yes-or-no question.",
    "bce": "Binary cross-entropy is minus the logarithm of the probability that the model gave to "
    "the right answer of each yes-or-no question.",
    "l1": "The loss is the distance between output and target, averaged over the outputs.",
    "smooth_l1": "The loss is the distance between output and target, rounded off near zero.",
    "huber": "The Huber loss is quadratic near the target and linear far from it.",
}
_SLOPE = {
    "cross_entropy": "Its derivative at the score of a class is that class's probability, minus 1 "
    "for the truth: the step pushes the true score up and every other one down, each as far as "
    "the model was wrong about it.",
    "nll": "Its derivative at the log-probability of the truth is −1, at all others 0.",
    "mse": "Its derivative at an output is twice the distance to its target, over the number of "
    "outputs: the farther off, the harder the push.",
    "bce_with_logits": "Its derivative at a score is the probability minus the target, over the "
    "number of questions.",
    "bce": "Its derivative at a probability p is (p − target) / (p·(1 − p)): it grows without "
    "limit where the model is certain and wrong.",
    "l1": "Its derivative is +1 or −1 over the number of outputs, however far off they are.",
}
FORMULAS = {
    "cross_entropy": "probability − [is the truth]",
    "mse": "2·(output − target) / outputs",
    "bce_with_logits": "(probability − target) / outputs",
}


def position_of(found: Answer) -> int:
    """The position of a sequence on which the model did worst; 0 for a single answer."""
    if found.kind != "classes" or found.scores is None or found.target is None:
        return 0
    if len(found.target) == 1 or found.valid is None or not bool(found.valid.any()):
        return 0
    safe = found.target.clamp(0, found.scores.shape[1] - 1)
    losses = -found.scores.double().gather(1, safe[:, None]).squeeze(1)
    losses = losses.masked_fill(~found.valid, -math.inf).nan_to_num(nan=math.inf)
    return int(losses.argmax())


def prediction(
    found: Answer, position: int, names: Names, output: Tensor | None, place: str = "position"
) -> Prediction:
    """What the model answered.

    Args:
        found: the loss's scores and target.
        position: which position of a sequence is shown.
        names: the user's names.
        output: for classes the scores that the model gave at that position, else all that it gave;
            None where they could not be found.
        place: what a position is called: ``position``, or ``sample`` of a whole batch.
    """
    if found.kind == "classes" and found.scores is not None:
        return _classes(found, position, names, output, place)
    if found.kind in ("values", "yes-no") and found.scores is not None:
        return _values(found)
    if output is None:
        return Prediction("unknown", "What the model answered could not be read.")
    flat = output.detach().double().flatten()
    rows = tuple(ValueRow(str(i), float(v), math.nan) for i, v in enumerate(flat[:SHOWN]))
    return Prediction(
        "unknown",
        "The loss is none that gradscope knows, so the model's output is shown as it is.",
        values=rows, more=max(0, flat.numel() - SHOWN),
    )  # fmt: skip


def _classes(
    found: Answer, position: int, names: Names, output: Tensor | None, place: str
) -> Prediction:
    assert found.scores is not None
    row = found.scores[position].double()
    # the scores of nll are log-probabilities, whatever the model calls them
    probabilities = row.exp()
    raw = row if output is None or len(output) != len(row) else output.detach().double()
    truth = -1
    if found.target is not None and found.valid is not None and bool(found.valid[position]):
        truth = int(found.target[position])
    top = int(probabilities.argmax())
    listed = [int(i) for i in probabilities.argsort(descending=True)[:SHOWN]]
    if truth >= 0 and truth not in listed:
        listed = [*listed[: SHOWN - 1], truth]
    scores = tuple(
        ClassScore(names.of_class(i), float(raw[i]), float(probabilities[i]), i == top, i == truth)
        for i in listed
    )
    said = f"The model says `{names.of_class(top)}` with {percent(float(probabilities[top]))}"
    if truth < 0:
        sentence = f"{said}; the truth is not known."
    elif truth == top:
        sentence = f"{said}, and that is right."
    else:
        sentence = (
            f"{said}, but the truth is `{names.of_class(truth)}`, to which it gives "
            f"{percent(float(probabilities[truth]))}."
        )
    count = found.scores.shape[0]
    where = f"{place} {position} of {count}, the one with the largest loss" if count > 1 else ""
    return Prediction(
        "classes", sentence, None if truth < 0 else truth == top, scores,
        more=max(0, len(row) - len(scores)), position=where,
    )  # fmt: skip


def _values(found: Answer) -> Prediction:
    assert found.scores is not None
    outputs = found.scores.double()
    binary = found.kind == "yes-no"
    if binary and found.operation == "bce_with_logits":
        outputs = outputs.sigmoid()
    target = found.target
    wanted = torch.full_like(outputs, math.nan) if target is None else target.double()
    errors = (outputs - wanted).abs()
    order = errors.nan_to_num(nan=-1).argsort(descending=True)[:SHOWN]
    rows = tuple(ValueRow(str(int(i)), float(outputs[i]), float(wanted[i])) for i in order)
    number_of = outputs.numel()
    first = rows[0] if rows else ValueRow("0", math.nan, math.nan)
    if binary:
        right = (outputs > 0.5) == (wanted > 0.5)
        correct = bool(right.all()) if target is not None else None
        if number_of == 1:
            said = (
                f"The model says yes with {percent(first.output)}; the truth is "
                f"{'yes' if first.target > 0.5 else 'no'}."
            )
        else:
            said = f"Of {number_of} yes-or-no questions it answers {int(right.sum())} rightly."
        return Prediction("yes-no", said, correct, values=rows, more=number_of - len(rows))
    if number_of == 1:
        said = f"The model gives {number(first.output)}; it should be {number(first.target)}."
    else:
        said = (
            f"The model gives {number_of} numbers; the one farthest from its target is number "
            f"{first.label}: {number(first.output)} instead of {number(first.target)}."
        )
    return Prediction("values", said, None, values=rows, more=number_of - len(rows))


def formula(found: Answer) -> Tensor | None:
    """The loss's derivative at its input by the textbook's formula, flat; None where none holds.

    Only of a loss without weights, smoothing and further terms.
    """
    if not found.plain or found.scores is None or found.target is None:
        return None
    if found.kind == "classes":
        if found.valid is None or found.operation != "cross_entropy":
            return None
        count = int(found.valid.sum()) if found.reduction == "mean" else 1
        labels = found.target.clamp(0, found.scores.shape[1] - 1)
        truth = torch.nn.functional.one_hot(labels, found.scores.shape[1]).double()
        slope = (found.scores.double().exp() - truth) * found.valid[:, None].double()
        return slope / max(count, 1)
    outputs, target = found.scores.double(), found.target.double()
    count = outputs.numel() if found.reduction == "mean" else 1
    if found.operation == "mse":
        return 2 * (outputs - target) / count
    return (outputs.sigmoid() - target) / count if found.operation == "bce_with_logits" else None


def loss_rows(
    found: Answer,
    value: float,
    derivative: Tensor | None,
    position: int,
    labels: Sequence[str] | None,
) -> LossFacts:
    """The loss in words, with its largest derivatives beside those of the formula.

    Args:
        found: the loss's scores and target.
        value: of the loss.
        derivative: at the loss's input, in the layout of ``found.scores``; None: not seen.
        position: which position of a sequence is shown.
        labels: names of the columns.
    """
    words = [f"The loss is {number(value)}."]
    if found.operation in _MEANING:
        words.append(_MEANING[found.operation])
        if found.operation in _SLOPE:
            words.append(_SLOPE[found.operation])
    else:
        words.append(
            "It is no loss that gradscope knows by name; the chain rule below holds for it all "
            "the same."
        )
    if found.terms > 1:
        words.append(f"It has {found.terms} terms; the first one that is known is explained.")
    elif found.kind != "unknown" and not found.plain:
        words.append(
            "It is weighted, smoothed or scaled, so the textbook's formula for its derivative does "
            "not hold to the letter."
        )
    textbook = formula(found)
    rows: list[LossSlope] = []
    size = math.nan
    if derivative is not None:
        size = float(torch.linalg.vector_norm(derivative.double()))
        shown = derivative.double().reshape(-1)
        expected = None if textbook is None else textbook.reshape(-1)
        offset = 0
        if found.kind == "classes" and found.scores is not None:
            width = found.scores.shape[1]
            offset = position * width
            shown = shown[offset : offset + width]
            expected = None if expected is None else expected[offset : offset + width]
        for index in shown.abs().argsort(descending=True)[:SHOWN]:
            at = int(index)
            label = labels[at] if labels is not None and at < len(labels) else str(at)
            by_formula = math.nan if expected is None else float(expected[at])
            rows.append(LossSlope(label, float(shown[at]), by_formula))
        if expected is not None and rows:
            words.append(
                f"The largest derivative is {number(rows[0].derivative)}, at `{rows[0].label}`; "
                f"the formula gives {number(rows[0].formula)}."
            )
    name = FORMULAS.get(found.operation, "") if textbook is not None else ""
    return LossFacts(found.operation, value, tuple(words), tuple(rows), size, name)
