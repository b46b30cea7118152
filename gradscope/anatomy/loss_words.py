"""The loss and its derivative at the output: in words, as a formula, and in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gradscope.anatomy.answer import Answer
from gradscope.anatomy.facts import LossFacts, LossSlope
from gradscope.diagnose.wording import number

SHOWN = 6
"""Derivatives that are listed."""
_TINY = 1e-12
"""What binary cross-entropy of probabilities takes for p·(1 − p) where that is smaller."""
Share = Literal["mean", "sum", ""]


def _share(found: Answer) -> Share:
    """How a loss of several outputs adds them up; "" where there is one, or it is not known."""
    if found.scores is None or found.reduction not in ("mean", "sum"):
        return ""
    several = len(found.scores) > 1
    if not several:
        return ""
    return "mean" if found.reduction == "mean" else "sum"


def _meaning(found: Answer) -> str:
    """What the loss measures; "" where it is not known."""
    what = {"mean": ", averaged over the outputs", "sum": ", added up over the outputs"}
    added = what.get(_share(found), "")
    bend = number(found.bend) if found.bend is not None else "a limit"
    binary = (
        "Binary cross-entropy is minus the logarithm of the probability that the model gave to "
        "the right answer of each yes-or-no question"
    )
    texts = {
        "cross_entropy": "Cross-entropy is minus the logarithm of the probability that the model "
        "gave to the truth: 0 if it was certain of it, and without limit the less it believed it",
        "nll": "The loss is minus the log-probability that the model gave to the truth",
        "mse": f"The squared error is the square of the distance between output and target{added}",
        "bce_with_logits": binary + added,
        "bce": binary + added,
        "l1": f"The L1 loss is the distance between output and target{added}",
        "smooth_l1": "The smooth L1 loss is half the square of the distance between output and "
        f"target{_divided(found.bend)}; beyond {bend} it is the distance less {_half(found.bend)}"
        f"{added}",
        "huber": "The Huber loss is half the square of the distance between output and target; "
        f"beyond {bend} it goes on as a straight line{added}",
    }
    return f"{texts[found.operation]}." if found.operation in texts else ""


def _half(bend: float | None) -> str:
    return "half of that" if bend is None else number(bend / 2)


def _divided(bend: float | None) -> str:
    return "" if bend in (None, 1.0) else f", divided by {number(bend or math.nan)}"


def _slope(found: Answer) -> str:
    """What the derivative says; "" where it is not known."""
    over = ", over the number of outputs" if _share(found) == "mean" else ""
    bend = number(found.bend) if found.bend is not None else "that limit"
    several = ", over the number of answers" if _share(found) == "mean" else ""
    texts = {
        "cross_entropy": "Its derivative at the score of a class is that class's probability, "
        f"minus 1 for the truth{several}: the step pushes the true score up and every other one "
        "down, each as far as the model was wrong about it",
        "nll": f"Its derivative at the log-probability of the truth is −1{several}, at all others "
        "0",
        "mse": f"Its derivative at an output is twice its distance to the target{over}: the "
        "farther off, the harder the push",
        "bce_with_logits": f"Its derivative at a score is the probability minus the target{over}",
        "bce": "Its derivative at a probability p is (p − target) / (p·(1 − p))"
        f"{over}: it grows without limit where the model is certain and wrong",
        "l1": f"Its derivative is +1 where an output is too high and −1 where it is too low{over}: "
        "the same push, however far off it is",
        "smooth_l1": f"Its derivative is the distance{_divided(found.bend)}, but at most 1 either "
        f"way{over}: an output that is far off pushes no harder than one that is {bend} off",
        "huber": f"Its derivative is the distance, but at most {bend} either way{over}: "
        f"an output that is far off pushes no harder than one that is {bend} off",
    }
    return f"{texts[found.operation]}." if found.operation in texts else ""


def written(found: Answer) -> str:
    """The derivative as a formula; "" where none is known."""
    count = "answers" if found.kind == "classes" else "outputs"
    over = f" / {count}" if _share(found) == "mean" else ""
    left, right = ("(", ")") if over else ("", "")
    off = "output − target"
    inner = off if found.bend in (None, 1.0) else f"(output − target) / {_number(found.bend)}"
    texts = {
        "cross_entropy": f"{left}probability − [is the truth]{right}",
        "mse": "2·(output − target)",
        "bce_with_logits": f"{left}probability − target{right}",
        "bce": "(p − target) / (p·(1 − p))",
        "l1": "sign(output − target)",
        "smooth_l1": f"clamp({inner}, ±1)",
        "huber": f"clamp({off}, ±{_number(found.bend)})",
    }
    text = texts.get(found.operation, "")
    return f"{text}{over}" if text else ""


def _number(bend: float | None) -> str:
    return "?" if bend is None else number(bend)


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
    each = _each(found, outputs, target)
    return None if each is None else each / (outputs.numel() if found.reduction == "mean" else 1)


def _each(found: Answer, outputs: Tensor, target: Tensor) -> Tensor | None:
    off = outputs - target
    if found.operation == "mse":
        return 2 * off
    if found.operation == "l1":
        return off.sign()
    if found.operation == "bce_with_logits":
        return outputs.sigmoid() - target
    if found.operation == "bce":
        return off / (outputs * (1 - outputs)).clamp(min=_TINY)
    if found.bend is None:
        return None
    if found.operation == "huber":
        return off.clamp(-found.bend, found.bend)
    return (off / found.bend).clamp(-1, 1) if found.operation == "smooth_l1" else None


def _beyond(found: Answer) -> str:
    """How many outputs are on the straight part of a loss that bends."""
    if found.bend is None or found.scores is None or found.target is None:
        return ""
    off = (found.scores.double() - found.target.double()).abs()
    far, count = int((off > found.bend).sum()), off.numel()
    if count == 1:
        side = "farther off than that" if far else "nearer than that"
        return f"This output is {number(float(off[0]))} off, {side}."
    verb = "is" if far == 1 else "are"
    return f"{far} of {count} outputs {verb} farther off than {number(found.bend)}."


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
    known = [_meaning(found), _slope(found), _beyond(found)]
    words = [f"The loss is {number(value)}.", *(text for text in known if text)]
    if not known[0]:
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
        if found.kind == "classes" and found.scores is not None:
            width = found.scores.shape[1]
            here = slice(position * width, (position + 1) * width)
            shown = shown[here]
            expected = None if expected is None else expected[here]
        for index in shown.abs().argsort(descending=True, stable=True)[:SHOWN]:
            at = int(index)
            label = labels[at] if labels is not None and at < len(labels) else str(at)
            by_formula = math.nan if expected is None else float(expected[at])
            rows.append(LossSlope(label, float(shown[at]), by_formula))
        if expected is not None and rows:
            words.append(
                f"The largest derivative is {number(rows[0].derivative)}, at `{rows[0].label}`; "
                f"the formula gives {number(rows[0].formula)}."
            )
    name = written(found) if textbook is not None else ""
    return LossFacts(found.operation, value, tuple(words), tuple(rows), size, name)
