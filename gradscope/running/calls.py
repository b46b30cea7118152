"""How a batch is given to the model, and which tensor of its output is meant."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradscope.running.objects import parameters, required
from gradscope.running.seeds import random_states_kept

TARGET_NAMES = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Call:
    """A batch taken apart.

    Attributes:
        args, kwargs: what the model is called with.
        target: what its output is compared with, or None.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any

    def of(self, model: nn.Module) -> Any:
        """The model's output."""
        return model(*self.args, **self.kwargs)


def split(batch: Any, model: nn.Module) -> Call:
    """Inputs and target of a batch.

    A tuple or list is inputs and, last, the target; a mapping goes in by name, its target under one
    of ``TARGET_NAMES``. A model whose ``forward`` takes the target itself gets it.
    """
    names = parameters(model.forward)
    takes_target = next((name for name in TARGET_NAMES if name in names), "")
    if isinstance(batch, Mapping):
        return _split_mapping(batch, model, names)
    if isinstance(batch, tuple | list):
        items = tuple(batch)
        if len(items) == 1:
            return Call(items, {}, None)
        if len(required(model.forward)) == len(items):
            return Call(items, {}, None)
        by_name = takes_target in names and names.index(takes_target) >= len(items) - 1
        return Call(items[:-1], {takes_target: items[-1]} if by_name else {}, items[-1])
    return Call((batch,), {}, None)


def _split_mapping(batch: Mapping[Any, Any], model: nn.Module, names: list[str]) -> Call:
    key = next((name for name in TARGET_NAMES if name in batch), None)
    target = batch[key] if key else None
    takes_any = any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values()
    )
    given = {k: v for k, v in batch.items() if k in names or (takes_any and k != key)}
    inputs = [k for k in batch if k != key]
    if not any(k in given for k in inputs) and len(inputs) == 1:
        return Call((batch[inputs[0]],), {k: v for k, v in given.items() if k == key}, target)
    return Call((), given, target)


def main_tensor(output: Any) -> torch.Tensor | None:
    """The tensor of an output that a loss is about: itself, ``.logits``, or the first one."""
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    if isinstance(output, Mapping):
        items = [output["logits"]] if "logits" in output else list(output.values())
    else:
        items = list(output) if isinstance(output, tuple | list) else []
    return next((found for found in map(main_tensor, items) if found is not None), None)


def own_loss(output: Any) -> torch.Tensor | None:
    """The loss that a model computes itself: ``.loss``, ``["loss"]``, or a scalar in its output."""
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(found, torch.Tensor):
        return found
    items = output if isinstance(output, tuple | list) else (output,)
    scalars = [t for t in items if isinstance(t, torch.Tensor) and t.ndim == 0 and t.requires_grad]
    return scalars[0] if len(scalars) == 1 else None


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Undo what a trial forward changes: buffers (running statistics) and all random states."""
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not nn.parameter.is_lazy(b)]
    with random_states_kept():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    if buffer.shape == before.shape:
                        buffer.copy_(before)


def sizes(tensor: Any) -> str:
    """``32 x 10``; the type's name for what is no tensor; ``a single number`` for a scalar."""
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    return " x ".join(map(str, tensor.shape)) or "a single number"
