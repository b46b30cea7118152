"""Training objects of the caller's without changing them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.running.seeds import random_states_kept


@contextmanager
def left_as_it_was(model: nn.Module, optimizer: Any = None) -> Iterator[None]:
    """Put back at the end what training changes.

    That is: parameters, buffers, gradients, training flags, the optimizer's state and all random
    states. Lazy parameters keep the shapes they took.

    Args:
        model: what is trained inside.
        optimizer: an optimizer of the caller's, or anything else, which is then ignored.
    """
    flags = [(module, module.training) for module in model.modules()]
    tensors = [
        (tensor, tensor.detach().clone(), _copied(tensor.grad))
        for tensor in (*model.parameters(), *model.buffers())
        if not nn.parameter.is_lazy(tensor)
    ]
    state = copy.deepcopy(optimizer.state_dict()) if hasattr(optimizer, "state_dict") else None
    with random_states_kept():
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value, gradient in tensors:
                    if tensor.shape == value.shape:
                        tensor.copy_(value)
                        tensor.grad = gradient
            if state is not None:
                optimizer.load_state_dict(state)
            for module, training in flags:
                module.training = training


def _copied(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()
