"""A loss for an output and a target: which one, and how the two are made to fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.errors import LoadError
from gradscope.running.calls import sizes
from gradscope.running.failures import in_one_line

Criterion = Callable[[Tensor, Tensor], Tensor]


def infer(output: Tensor, target: Tensor) -> tuple[Criterion, str]:
    """Cross-entropy or mean squared error from an output and its target.

    Args:
        output: the model's output, batch first.
        target: whole numbers are classes, real numbers are values.

    Returns:
        The criterion and a sentence that says which one it is and why.

    Raises:
        LoadError: no loss fits the two shapes.
    """
    if not target.is_floating_point() and not target.is_complex():
        classes = target.long()
        if output.numel() == target.numel() and (output.ndim < 2 or output.shape[-1] == 1):
            return _one_logit(classes)
        if output.shape[:-1] == classes.shape:
            return _classes_last(output)
        if output.ndim > 1 and output.shape[:1] + output.shape[2:] == classes.shape:
            return _cross_entropy, _because("cross-entropy", "the targets are whole numbers")
    if output.shape == target.shape:
        return _mse, _because("mean squared error", "the targets are real numbers")
    if output.numel() == target.numel():
        return _mse_reshaped, _because(
            "mean squared error",
            f"the targets ({sizes(target)}) have as many numbers as the output ({sizes(output)})",
        )
    raise LoadError(
        f"no loss fits an output of {sizes(output)} and targets of {sizes(target)}",
        hint="define loss(model, batch), which returns a scalar",
    )


def fit(criterion: Criterion, output: Tensor, target: Tensor) -> tuple[Criterion, str | None]:
    """The user's criterion, with output and target reshaped where it needs that.

    Returns:
        The criterion and a sentence about the change, or None where nothing was changed.

    Raises:
        LoadError: it takes them in no form.
    """
    failure: Exception | None = None
    for adapted, sentence in _forms(criterion, output, target):
        try:
            adapted(output, target)
        except Exception as error:
            failure = failure or error
        else:
            return adapted, sentence
    raise LoadError(
        f"the loss does not accept an output of {sizes(output)} and a target of {sizes(target)}: "
        f"{in_one_line(failure) if failure else ''}",
        hint="define loss(model, batch), which calls the model and returns a scalar",
    )


def _forms(
    criterion: Criterion, output: Tensor, target: Tensor
) -> list[tuple[Criterion, str | None]]:
    forms: list[tuple[Criterion, str | None]] = []
    broadcasts = output.shape != target.shape and output.numel() == target.numel()
    if not (broadcasts and target.is_floating_point()):
        # with as many numbers in another shape, mse would silently compare all with all
        forms.append((criterion, None))
    if broadcasts:
        forms.append(
            (
                lambda o, t: criterion(o, t.reshape(o.shape).to(o.dtype)),
                f"Targets ({sizes(target)}) are given the shape of the output ({sizes(output)}).",
            )
        )
    if output.ndim > 2 and output.shape[:-1] == target.shape:
        forms.append(
            (
                lambda o, t: criterion(o.flatten(0, -2), t.flatten()),
                f"Output ({sizes(output)}) and targets are flattened for the loss, classes last.",
            )
        )
    if not target.is_floating_point():
        forms.append(
            (
                lambda o, t: criterion(o, t.to(o.dtype)),
                "Targets are given the number format of the output.",
            )
        )
    return forms


def _because(loss: str, reason: str) -> str:
    return f"No loss was found: it is {loss}, because {reason}."


def _one_logit(classes: Tensor) -> tuple[Criterion, str]:
    if int(classes.min()) >= 0 and int(classes.max()) <= 1:
        return _binary, _because(
            "binary cross-entropy with logits",
            "the targets are 0 and 1 and the output is one number",
        )
    return _mse_reshaped, _because("mean squared error", "the output is one number for each target")


def _classes_last(output: Tensor) -> tuple[Criterion, str]:
    values = output.detach().float()
    sums = values.sum(-1)
    if bool((values >= 0).all()) and _all_one(sums):
        # cross-entropy on these would be a fault of ours, not the user's
        return _nll_of_probabilities, _because(
            "the negative log of the probability", "each row of the output sums to 1"
        )
    if _all_one(values.exp().sum(-1)):
        return _nll, _because(
            "negative log-likelihood", "each row of the output is a log-probability"
        )
    return _cross_entropy_last, _because("cross-entropy", "the targets are whole numbers")


def _all_one(sums: Tensor) -> bool:
    return bool(((sums - 1).abs() < 1e-3).all())


def _binary(output: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        output, target.reshape(output.shape).to(output.dtype)
    )


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target.long())


def _cross_entropy_last(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, -2), target.long().flatten())


def _nll(output: Tensor, target: Tensor) -> Tensor:
    return functional.nll_loss(output.flatten(0, -2), target.long().flatten())


def _nll_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    tiny = torch.finfo(output.dtype).tiny
    return _nll(output.clamp_min(tiny).log(), target)


def _mse(output: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(output, target)


def _mse_reshaped(output: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(output, target.reshape(output.shape).to(output.dtype))
