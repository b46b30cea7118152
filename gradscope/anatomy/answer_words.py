"""The prediction in words and rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradscope.anatomy.answer import Answer
from gradscope.anatomy.facts import ClassScore, Prediction, ValueRow
from gradscope.anatomy.subject import Names
from gradscope.diagnose.wording import number, percent

SHOWN = 6
"""Answers or values that are listed."""


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
        "The loss is none that gradscope knows, so the model's output is shown as it is."
        if found.operation.startswith(("other:", "unknown"))
        else "What the output should have been is not kept by the loss, so it is shown as it is.",
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
