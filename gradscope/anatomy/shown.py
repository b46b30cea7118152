"""Attributions in the form in which they are shown: a picture, features, tokens, a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gradscope.anatomy import biases
from gradscope.anatomy.attribution import Driven
from gradscope.anatomy.facts import Attribution
from gradscope.anatomy.subject import Names
from gradscope.diagnose.wording import number

Form = Literal["picture", "features", "tokens", "sequence"]
PICTURE = 64
"""Most rows and columns of a picture that is stored; a larger one is averaged down to them."""
LISTED = 512
"""Most features, tokens or places that are stored."""
SMOOTH = 0.25
"""Correlation of neighbours from which a row of features is taken for a flattened picture. The
8 × 8 digits of scikit-learn have 0.40 in 64 of them, the same with shuffled pixels −0.06."""


def form_of(
    model: nn.Module, sample: Tensor, tokens: Tensor | None, names: Names, whole: Tensor | None
) -> tuple[Form, tuple[int, int], str]:
    """How to show an input, its rows and columns, and a sentence where that is a guess.

    Args:
        model: its first layer with weights tells pictures from sequences.
        sample: ``[1, …]``.
        tokens: the token numbers, or None.
        names: the user's names; ``image`` decides.
        whole: the batch that the sample comes from, or None.
    """
    shape = tuple(sample.shape[1:])
    if tokens is not None:
        return "tokens", (1, shape[0] if len(shape) > 1 else 1), ""
    if len(shape) == 3 and shape[1] > 1 and shape[2] > 1:
        return "picture", (shape[1], shape[2]), ""
    first = next((m for m in model.modules() if isinstance(m, _FIRST)), None)
    if len(shape) == 2:
        if isinstance(first, nn.Conv2d):
            return "picture", (shape[0], shape[1]), ""
        if isinstance(first, nn.Conv1d):
            return "sequence", (1, shape[1]), ""
        return "sequence", (1, shape[0]), ""
    count = math.prod(shape)
    if names.image is not None and count % math.prod(names.image) == 0:
        return "picture", names.image, ""
    side = math.isqrt(count)
    if len(shape) == 1 and side * side == count and side >= 6 and whole is not None:
        smooth = _smoothness(whole.reshape(len(whole), side, side))
        if smooth > SMOOTH:
            note = (
                f"The {count} features are shown as a picture of {side} × {side}: there "
                f"neighbours agree (correlation {smooth:.2f})."
            )
            return "picture", (side, side), note
    return "features", (1, count), ""


_FIRST = (nn.Conv2d, nn.Conv1d, nn.Linear, nn.RNNBase, nn.Embedding)


def _smoothness(pictures: Tensor) -> float:
    """The smaller of the correlations of neighbours in a row and in a column."""
    values = pictures.double()
    pairs = ((values[:, :, 1:], values[:, :, :-1]), (values[:, 1:], values[:, :-1]))
    found = []
    for one, other in pairs:
        stacked = torch.stack((one.flatten(), other.flatten()))
        if bool((stacked.std(dim=1) == 0).any()):
            return 0.0
        found.append(float(torch.corrcoef(stacked)[0, 1]))
    return min(found)


def attribution(
    made: Driven, target: str, form: Form, size: tuple[int, int], names: Names, note: str
) -> Attribution:
    """One attribution, ready to be shown and stored; sums are over all inputs, unrounded."""
    products = [v.double() * g.double() for v, g in zip(made.inputs, made.gradients, strict=True)]
    product_sum = float(sum(float(p.sum()) for p in products))
    integrated_sum = (
        float(sum(float(part.sum()) for part in made.integrated)) if made.integrated else math.nan
    )
    main = max(range(len(made.inputs)), key=lambda i: made.inputs[i].numel())
    value, gradient = made.inputs[main].double(), made.gradients[main].double()
    shown_product = _reduced(products[main], form, size, total=True)
    over_embedding = form in ("tokens", "sequence") and gradient.dim() > 2
    shown_gradient = (
        gradient.flatten(2).norm(dim=-1)[0]
        if over_embedding and size[1] == gradient.shape[1]
        else _reduced(gradient, form, size, total=True)
    )
    shown_value = _reduced(value, form, size, total=form != "picture")
    shown_integrated = (
        _reduced(made.integrated[main], form, size, total=True) if made.integrated else None
    )
    rows, columns = size
    labels = _labels(form, made.tokens, columns, names)
    colours: tuple[int, ...] = ()
    if form == "picture":
        colours = _colours(value, size)
        kept = [_small(each, size) for each in (shown_value, shown_gradient, shown_product)]
        shown_value, shown_gradient, shown_product = kept
        if shown_integrated is not None:
            shown_integrated = _small(shown_integrated, size)
        rows, columns = min(rows, PICTURE), min(columns, PICTURE)
    else:
        columns = min(columns, LISTED)
    words = _words(made, product_sum, integrated_sum, len(made.inputs), note)
    return Attribution(
        target, made.score, form, (rows, columns), labels[:LISTED],
        () if form == "tokens" else _numbers(shown_value), _numbers(shown_gradient),
        _numbers(shown_product), () if shown_integrated is None else _numbers(shown_integrated),
        product_sum, made.bias_sum, made.baseline, integrated_sum, made.points, words, colours,
    )  # fmt: skip


def _reduced(tensor: Tensor, form: Form, size: tuple[int, int], *, total: bool) -> Tensor:
    """Flat values of one sample: summed (or averaged) over channels or the embedding."""
    tensor = tensor[0] if tensor.dim() > 1 else tensor
    if form == "picture":
        planes = tensor.reshape(-1, *size)
        return (planes.sum(0) if total else planes.mean(0)).flatten()
    if form in ("tokens", "sequence") and tensor.dim() > 1:
        # time stands on axis 0, or on the last axis behind a one-dimensional convolution
        along = tensor.flatten(1).sum(1) if tensor.shape[0] == size[1] else tensor.sum(0)
        return along.flatten()
    return tensor.flatten()


def _small(flat: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = size
    if rows <= PICTURE and columns <= PICTURE:
        return flat
    picture = flat.reshape(1, 1, rows, columns)
    target = (min(rows, PICTURE), min(columns, PICTURE))
    return nn.functional.adaptive_avg_pool2d(picture, target).flatten()


def _colours(value: Tensor, size: tuple[int, int]) -> tuple[int, ...]:
    planes = value[0].reshape(-1, *size)
    if len(planes) != 3:
        return ()
    low, high = float(planes.min()), float(planes.max())
    scaled = (planes - low) / max(high - low, 1e-12)
    small = torch.stack([_small(plane.flatten(), size) for plane in scaled], dim=1)
    return tuple(int(v) for v in (255 * small).round().clamp(0, 255).flatten())


def _labels(form: Form, tokens: Tensor | None, count: int, names: Names) -> tuple[str, ...]:
    if form == "picture":
        return ()
    if form == "tokens" and tokens is not None:
        row = tokens.reshape(-1)[:count]
        return tuple(names.of_token(int(token)) for token in row)
    if form == "features" and len(names.features) == count:
        return tuple(map(str, names.features))
    word = "place" if form == "sequence" else "feature"
    return tuple(f"{word} {index}" for index in range(count))


def _numbers(values: Tensor) -> tuple[float, ...]:
    # four digits are more than any picture shows, and keep the stored trace small
    return tuple(float(f"{float(v):.4g}") for v in values[: PICTURE * PICTURE])


def _words(
    made: Driven, product_sum: float, integrated_sum: float, inputs: int, note: str
) -> tuple[str, ...]:
    said = [note] if note else []
    if inputs > 1:
        said.append(f"The model has {inputs} inputs; the largest is shown, the sums cover all.")
    rest = made.score - product_sum
    if made.linear and biases.agrees(product_sum, made.bias_sum, made.score):
        said.append(
            f"Gradient × input adds up to {number(product_sum)}, and the biases add "
            f"{number(made.bias_sum)}: together {number(product_sum + made.bias_sum)}, the score. "
            "Theory says so for a network that is linear in pieces."
        )
    elif made.linear:
        constant = rest - made.bias_sum
        said.append(
            f"Gradient × input adds up to {number(product_sum)} and the biases add "
            f"{number(made.bias_sum)}; the rest of the score, {number(constant)}, comes from "
            "constants that the model adds, such as a position."
        )
    else:
        said.append(
            f"Gradient × input adds up to {number(product_sum)}; the score is {number(made.score)}."
            " The network is not linear in pieces, so the two need not agree: this is the slope at "
            "this one point."
        )
    if made.integrated:
        whole = made.score - made.baseline
        said.append(
            f"Integrated gradients, over {made.points} points from an input of zeros, add up to "
            f"{number(integrated_sum)}; the score changes by {number(whole)} on that way, from "
            f"{number(made.baseline)}. By theory the two are equal."
        )
    return tuple(said)


def strongest(values: Sequence[float], most: int) -> list[int]:
    """Indices of the values of largest size, largest first."""
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
    return order[:most]
