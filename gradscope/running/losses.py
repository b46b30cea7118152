"""Finding the loss in the user's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import LoadError
from gradscope.running.calls import main_tensor, own_loss, sizes, split, state_kept
from gradscope.running.failures import user_code
from gradscope.running.inferred_loss import Criterion, fit, infer
from gradscope.running.models import LOSS_NAMES
from gradscope.running.objects import Names, parameters, required

Loss = Callable[[nn.Module, Any], Tensor]
"""From the model and a batch to a scalar."""

NO_LOSS = "none: the model's output"
_MODEL_NAMES = ("model", "net", "network", "module", "m")


def find_loss(
    names: Names, model: nn.Module, first_batch: Callable[[], Any], *, needed: bool = True
) -> tuple[Loss, str]:
    """The loss and a phrase that says what was taken.

    Taken is, in this order: ``loss(model, batch)``, ``loss_fn``, ``criterion``, the loss that the
    model's output holds, and else one that fits output and target.

    Args:
        names: the user's names.
        model: in training mode, on its device.
        first_batch: gives a batch to look at, on the model's device.
        needed: without a loss nothing can be done; else ``output_alone`` stands in for one.

    Raises:
        LoadError: the model does not take the batch, or no loss fits.
    """
    for name in LOSS_NAMES:
        found = names.get(name)
        if found is None:
            continue
        if not callable(found):
            raise LoadError(
                f"{name} is a {type(found).__name__}, not a loss function",
                where=names.origin,
                hint="define loss(model, batch), or criterion(output, target)",
            )
        if _takes_model(found):
            return found, f"`{name}(model, batch)`"
        return _with_criterion(names, model, first_batch(), found, f"`{name}`")
    return _inferred(names, model, first_batch(), needed=needed)


def _takes_model(function: Any) -> bool:
    if isinstance(function, nn.Module):
        return False
    first = next(iter(parameters(function)), "")
    return len(required(function)) == 2 and first.lower() in _MODEL_NAMES


def _with_criterion(
    names: Names, model: nn.Module, batch: Any, criterion: Criterion, phrase: str
) -> tuple[Loss, str]:
    output = _trial(names, model, batch)
    target = split(batch, model).target
    tensor = main_tensor(output)
    if tensor is None or not isinstance(target, Tensor):
        found = "no tensor in the model's output" if tensor is None else "no target in the batch"
        raise LoadError(
            f"{phrase} needs an output and a target, but there is {found}",
            where=names.origin,
            hint="define loss(model, batch), which calls the model and returns a scalar",
        )
    with state_kept(model):
        adapted, sentence = fit(criterion, tensor, target)
    if sentence:
        names.assume(sentence)
    if tensor is not output:
        names.assume(f"The loss is taken of the {sizes(tensor)} tensor in the model's output.")
    return _comparing(adapted), phrase


def _inferred(names: Names, model: nn.Module, batch: Any, *, needed: bool) -> tuple[Loss, str]:
    output = _trial(names, model, batch)
    if own_loss(output) is not None:
        return _of_output, "the loss in the model's output"
    target, tensor = split(batch, model).target, main_tensor(output)
    if tensor is None:
        if not needed:
            return output_alone, NO_LOSS
        raise LoadError(
            f"no loss was found, and the model's output is a {type(output).__name__}",
            where=names.origin,
            hint="define loss(model, batch), which returns a scalar",
        )
    if target is None and not isinstance(batch, dict):
        item = batch[0] if isinstance(batch, tuple | list) else batch
        if isinstance(item, Tensor) and item.shape == tensor.shape and item.is_floating_point():
            names.assume(
                "No loss was found: it is mean squared error between the output and the input, "
                "because they have one shape and the batch has no target."
            )
            return _reconstructing, "mean squared error of the reconstruction"
    if not isinstance(target, Tensor):
        if not needed:
            return output_alone, NO_LOSS
        raise LoadError(
            "no loss was found, and the batch has no target to infer one from",
            where=names.origin,
            hint="define loss(model, batch), or let a batch be (input, target)",
        )
    criterion, sentence = infer(tensor, target)
    names.assume(sentence)
    if tensor is not output:
        names.assume(f"The loss is taken of the {sizes(tensor)} tensor in the model's output.")
    return _comparing(criterion), sentence.partition(" it is ")[2].partition(",")[0]


def output_alone(model: nn.Module, batch: Any) -> Any:
    """What the model gives: in place of a loss where none is needed."""
    return split(batch, model).of(model)


def _trial(names: Names, model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch, leaving the model and the random states as they were."""
    call = split(batch, model)
    given = [sizes(item) for item in (*call.args, *call.kwargs.values())]
    hint = (
        f"the model was called with {', '.join(given)}; if that is not how it is called, define "
        "loss(model, batch)"
    )
    with state_kept(model), torch.enable_grad(), user_code(LoadError, "a first forward pass", hint):
        return call.of(model)


def _comparing(criterion: Criterion) -> Loss:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        call = split(batch, model)
        tensor = main_tensor(call.of(model))
        if tensor is None:
            raise TypeError("the model's output holds no tensor")
        return criterion(tensor, call.target)

    return loss


def _of_output(model: nn.Module, batch: Any) -> Tensor:
    found = own_loss(split(batch, model).of(model))
    if found is None:
        raise TypeError("the model's output holds no loss")
    return found


def _reconstructing(model: nn.Module, batch: Any) -> Tensor:
    call = split(batch, model)
    tensor = main_tensor(call.of(model))
    if tensor is None:
        raise TypeError("the model's output holds no tensor")
    return nn.functional.mse_loss(tensor, call.args[0])
