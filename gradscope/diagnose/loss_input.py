"""What a loss gets as its input, judged by the node that made it and by the shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradscope.diagnose.finding import Confidence
from gradscope.recording.reader import Recording

_SQUASHED = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Hardsigmoid": "hardsigmoid"}
"""Nodes whose results are probabilities."""
_RAW = frozenset({
    "Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "NativeBatchNorm", "CudnnBatchNorm",
    "NativeLayerNorm", "Relu", "Tanh", "Gelu", "Elu", "LeakyRelu",
})  # fmt: skip
"""Nodes whose results can be no log-probabilities of classes: of any sign, or never negative."""
SURELY_NEGATIVE = 1e-2
"""A loss below minus this is no rounding, and no small number that was added inside a logarithm."""
_WITH_LOG_SOFTMAX = ("cross_entropy", "kl_div")
_BY_ELEMENT = ("mse", "l1", "smooth_l1", "huber")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one look at a loss.

    Attributes:
        kind: see ``fault_of``.
        said: the fault in words, with the operation or the shapes.
        confidence: ``strong`` where it is told by a number and not by the graph.
    """

    kind: str
    said: str
    confidence: Confidence = "certain"


def fault_of(look: Mapping[str, Any]) -> Fault | None:
    """What is wrong with one row of table ``losses``, None if nothing is known to be.

    Kinds: ``softmax-twice``, ``sigmoid-twice``, ``log-softmax-twice``, ``probabilities`` and
    ``logits`` where log-probabilities belong, ``broadcast``.
    """
    operation = str(look["operation"])
    made = _operation(look["input_operation"])
    squashed = _SQUASHED.get(made)
    if operation in _WITH_LOG_SOFTMAX:
        if squashed:
            return Fault("softmax-twice", f"`{operation}` gets the result of a {squashed}")
        if made == "LogSoftmax":
            return Fault("log-softmax-twice", f"`{operation}` gets the result of a log_softmax")
    elif operation == "bce_with_logits" and squashed:
        said = f"`binary_cross_entropy_with_logits` gets the result of a {squashed}"
        return Fault("sigmoid-twice", said)
    elif operation == "nll":
        return _not_log_probabilities(made, squashed, look["value"])
    elif operation in _BY_ELEMENT:
        return _broadcast(operation, look)
    return None


def gained_of_possible(kind: str, looks: pd.DataFrame) -> float:
    """Share that is removed of what a loss of probabilities in place of scores can lose at all.

    Scores between 0 and 1 leave a cross entropy at ``ln(e + classes - 1) - 1`` at best, and a
    binary one at ``ln(1 + 1/e)`` for each positive and ``ln 2`` for each negative target. NaN for
    other faults, and where value or trivial loss is not known.
    """
    known = looks[looks["value"].notna() & looks["baseline"].notna()]
    if not len(known):
        return math.nan
    tail = known.iloc[-max(5, len(known) // 20) :]
    trivial, value = float(tail["baseline"].iloc[-1]), float(tail["value"].mean())
    if kind == "softmax-twice" and tail["classes"].notna().any():
        best = math.log(math.e + float(tail["classes"].dropna().iloc[-1]) - 1) - 1
    elif kind == "sigmoid-twice" and tail["target_mean"].notna().any():
        positive = float(tail["target_mean"].dropna().iloc[-1])
        best = positive * math.log1p(math.exp(-1)) + (1 - positive) * math.log(2)
    else:
        return math.nan
    return (trivial - value) / (trivial - best) if trivial > best else math.nan


def _not_log_probabilities(made: str, squashed: str | None, value: float) -> Fault | None:
    if squashed:
        said = f"`nll_loss` gets the result of a {squashed}, not of a log_softmax"
        return Fault("probabilities", said)
    if made in _RAW:
        return Fault("logits", "`nll_loss` gets raw scores, not the result of a log_softmax")
    if value < -SURELY_NEGATIVE:
        # log-probabilities are never positive, so their negative mean is never below 0
        return Fault("logits", "`nll_loss` is below 0: it gets no log-probabilities", "strong")
    return None


def _broadcast(operation: str, look: Mapping[str, Any]) -> Fault | None:
    """Shapes that differ only by axes of length 1, and by a rank that shifts them past each other.

    Both sides are then stretched along the batch. Axes that were set against each other on purpose
    (pairs of quantiles, of points) keep the batch axis in its place.
    """
    prediction, elements = _sizes(look["input_shape"]), _sizes(look["element_shape"])
    target = _sizes(look["target_shape"])
    if prediction is None or elements is None:
        return None
    own = [size for size in prediction if size > 1]
    if target is None:
        # a difference by hand: the target leaves no trace, the square of the batch does
        shifted = len(own) == 1 and elements == [own[0], own[0]] and prediction in (own, [*own, 1])
        said = f"shape {_text(prediction)} became {_text(elements)} against the target"
        return Fault("broadcast", f"In the {operation} the {said}", "strong") if shifted else None
    if own != [size for size in target if size > 1] or not own:
        return None
    stretched = _product(elements) > _product(own)
    shorter = len(prediction) < len(elements)
    if not stretched or not (shorter or (target[0] == 1 and prediction[0] > 1)):
        return None
    bare = target if shorter else target[1:]
    shapes = f"{_text(prediction)} against {_text(bare)}"
    return Fault("broadcast", f"`{operation}` compares {shapes}, which gives {_text(elements)}")


def _sizes(value: Any) -> list[int] | None:
    return [int(size) for size in value] if isinstance(value, list | tuple) else None


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _text(sizes: Sequence[int]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def examined_faults(recording: Recording) -> list[tuple[Fault, Any, Any]]:
    """Calls of ``kl_div`` on probabilities, with file and line: its graph has no node."""
    examined = recording.examined
    calls = examined[(examined["kind"] == "loss") & (examined["operation"] == "kl_div")]
    found: dict[tuple[Any, Any], tuple[Fault, Any, Any]] = {}
    for row in calls.to_dict("records"):
        detail = row["detail"] if isinstance(row["detail"], dict) else {}
        squashed = _SQUASHED.get(_operation(detail.get("input_operation")))
        if squashed:
            said = f"`kl_div` gets the result of a {squashed}, not of a log_softmax"
            found[row["file"], row["line"]] = Fault("probabilities", said), row["file"], row["line"]
    return list(found.values())


def _operation(node: Any) -> str:
    """``Softmax`` from ``SoftmaxBackward0``, "" without a node."""
    return node.rstrip("0123456789").removesuffix("Backward") if isinstance(node, str) else ""
