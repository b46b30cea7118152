"""From a file, or from objects in memory, to everything that a training step needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import LoadError, UsageError
from gradscope.observe.callsite import shown
from gradscope.running import lightning_like
from gradscope.running.batches import find_batches, moved
from gradscope.running.calls import split, state_kept
from gradscope.running.failures import user_code
from gradscope.running.importing import import_file
from gradscope.running.losses import find_loss
from gradscope.running.models import find_model
from gradscope.running.objects import Names
from gradscope.running.optimizers import find_optimizer
from gradscope.running.seeds import seed_all
from gradscope.running.synthetic import make_up
from gradscope.running.target import parse


@dataclass(frozen=True)
class Workload:
    """What is trained, and how.

    Attributes:
        model: on its device, in training mode.
        batches: gives an iterator over batches on the model's device; it does not end, unless the
            user's own iterator does.
        loss: from the model and a batch to a scalar.
        optimizer: over the model's parameters; None where nothing is to be trained.
        assumptions: a sentence for each thing that was inferred.
        took: what was taken from the file, by part: model, batches, loss, optimizer.
        target: what the user asked for, as shown to the user.
        label: name of the model's variable or class.
        file: the user's file, or None for objects in memory.
        schedulers: learning-rate schedules to be moved after each step.
    """

    model: nn.Module
    batches: Callable[[], Iterator[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    optimizer: Any
    assumptions: tuple[str, ...]
    took: Mapping[str, str]
    target: str
    label: str
    file: Path | None = None
    schedulers: tuple[Any, ...] = ()


def load(
    target: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    seed: int = 0,
    trains: bool = True,
) -> Workload:
    """Import ``model.py[:object]`` and find the parts of its training.

    Call it, and run the workload, inside ``importing.surroundings(target.file)``. All random states
    are seeded before the import.

    Args:
        target: as on the command line.
        input_shape: shape of made-up inputs, batch first; None to infer it.
        device: a torch device.
        batch_size: samples in a batch, where gradscope makes the batches.
        seed: of torch, numpy and random.
        trains: whether a loss and an optimizer are needed; without, a model may have no parameters,
            and its loss may be ``output_alone``.

    Raises:
        UsageError: the file or the device cannot be used.
        LoadError: the file cannot be imported, or a part is missing or does not fit.
    """
    parsed = parse(target)
    place = usable_device(device)
    seed_all(seed)
    module = import_file(parsed.file)
    names = Names(vars(module), shown(str(parsed.file)), module.__name__, batch_size)
    model, label, phrase = find_model(names, parsed.name)
    with user_code(LoadError, f"moving the model to {device}"):
        model.to(place)
    return _workload(
        names, model, label, phrase, parsed.text, parsed.file, input_shape, seed, trains=trains
    )


def from_objects(
    model: nn.Module,
    *,
    batches: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    label: str = "model",
    input_shape: tuple[int, ...] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Workload:
    """A workload from objects in memory; what is None is inferred as for a file.

    Args:
        model: stays on its device.
        batches: a loader, a data set, a list of batches, a function that gives one of these, or
            one batch as a tensor, a tuple of tensors or a dict.
        loss: ``loss(model, batch)`` or ``criterion(output, target)``.
        optimizer: an optimizer, or a function of the model that makes one.
        label: name of the model's variable.
        input_shape: see ``load``.
        batch_size: see ``load``.
        seed: of made-up batches; the random states are the caller's.
    """
    found = {_batches_name(batches): batches, "loss": loss, _optimizer_name(optimizer): optimizer}
    names = Names({k: v for k, v in found.items() if v is not None}, "the call", "", batch_size)
    shown_as = type(model).__name__
    return _workload(names, model, label, f"`{label}`", shown_as, None, input_shape, seed)


def usable_device(device: str) -> torch.device:
    """The device, after it has held a tensor.

    Raises:
        UsageError: torch does not know it, or it is not there.
    """
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"]
        if torch.accelerator.is_available():
            there.append(str(torch.accelerator.current_accelerator()))
        raise UsageError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}",
            hint=f"devices here: {', '.join(there)}",
        ) from None
    return place


def _workload(
    names: Names,
    model: nn.Module,
    label: str,
    phrase: str,
    target: str,
    file: Path | None,
    input_shape: tuple[int, ...] | None,
    seed: int,
    *,
    trains: bool = True,
) -> Workload:
    model.train()
    device = _device_of(model)
    batches, batches_phrase = _batches(names, model, input_shape, seed, device)

    def on_device() -> Iterator[Any]:
        return (moved(batch, device) for batch in batches())

    def first_batch() -> Any:
        with user_code(LoadError, "the first batch"), state_kept(model):
            return next(on_device())

    _materialize(model, first_batch)
    if lightning_like.brings_its_loop(model):
        loss, loss_phrase = lightning_like.own_loss(names, model)
    else:
        loss, loss_phrase = find_loss(names, model, first_batch, needed=trains)
    took = {"model": phrase, "batches": batches_phrase, "loss": loss_phrase}
    optimizer, schedulers = None, ()
    if trains:
        optimizer, schedulers, took["optimizer"] = find_optimizer(names, model)
    return Workload(
        model, on_device, loss, optimizer, tuple(names.notes), took, target, label, file, schedulers
    )


def _batches(
    names: Names,
    model: nn.Module,
    input_shape: tuple[int, ...] | None,
    seed: int,
    device: torch.device,
) -> tuple[Callable[[], Iterator[Any]], str]:
    found = None
    if lightning_like.brings_its_loop(model):
        found = lightning_like.own_batches(model)
    if found is None:
        with user_code(LoadError, "looking for batches"):
            found = find_batches(names)
    if found is None:
        return make_up(names, model, input_shape, seed, device)
    if input_shape is not None:
        names.assume(f"The given input shape is not used: the batches are {found[1]}.")
    return found


def _materialize(model: nn.Module, first_batch: Callable[[], Any]) -> None:
    """Let lazy modules take their shapes, which an optimizer needs, from the first batch."""
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        batch = first_batch()
        with torch.no_grad(), state_kept(model), user_code(LoadError, "a first forward pass"):
            split(batch, model).of(model)


def _device_of(model: nn.Module) -> torch.device:
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def _batches_name(batches: Any) -> str:
    """The name under which ``find_batches`` takes such an object."""
    if isinstance(batches, Tensor | tuple | dict):
        return "batch"
    return "dataset" if isinstance(batches, torch.utils.data.Dataset) else "batches"


def _optimizer_name(optimizer: Any) -> str:
    return "optimizer" if hasattr(optimizer, "step") else "make_optimizer"
