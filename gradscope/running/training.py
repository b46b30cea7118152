"""The training steps that ``check`` runs in the user's stead."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gradscope.errors import StepError
from gradscope.running.calls import sizes
from gradscope.running.failures import user_code
from gradscope.running.loading import Workload
from gradscope.running.optimizers import needs_closure

Progress = Callable[[int, float], None]
"""Told after each step: its number from 0 and its loss."""
Examining = Callable[[Callable[[], Any]], AbstractContextManager[None]]
"""Entered around each forward pass and loss; its argument runs them and backward once more."""
_END = object()


def train(
    workload: Workload,
    *,
    steps: int,
    seconds: float,
    progress: Progress | None = None,
    examining: Examining = lambda _again: nullcontext(),
) -> str | None:
    """Run the workload's loop: batch, zero_grad, loss, backward, step.

    Args:
        workload: what to train.
        steps: most steps.
        seconds: no step begins after so many seconds.
        progress: see ``Progress``.
        examining: see ``Examining``.

    Returns:
        Why it ended before its last step ("interrupted at step 17"), or None.

    Raises:
        StepError: the user's code failed; the message has the step.
    """
    workload.model.train()
    batches = workload.batches()
    began, step = time.monotonic(), 0
    try:
        for step in range(steps):
            if time.monotonic() - began > seconds:
                return f"stopped at step {step} of {steps}: {seconds:g} s had passed"
            with user_code(StepError, f"the batch of step {step}"):
                batch = next(batches, _END)
            if batch is _END:
                return f"ended at step {step} of {steps}: the batches ended"
            loss = _step(workload, batch, step, examining)
            if progress is not None:
                progress(step, loss)
    except KeyboardInterrupt:
        return f"interrupted at step {step}"
    return None


def _step(
    workload: Workload,
    batch: Any,
    step: int,
    examining: Examining,
) -> float:
    """One step; the value of its loss."""
    optimizer, value = workload.optimizer, torch.zeros(())

    def again() -> Tensor:
        loss = workload.loss(workload.model, batch)
        loss.backward()
        return loss

    def forward_and_backward() -> Tensor:
        nonlocal value
        optimizer.zero_grad()
        with user_code(StepError, f"the forward pass of step {step}"), examining(again):
            loss = workload.loss(workload.model, batch)
        _check_loss(loss, step)
        value = loss.detach()
        with user_code(StepError, f"the backward pass of step {step}"):
            loss.backward()
        return loss

    if needs_closure(optimizer):
        with user_code(StepError, f"the optimizer's step {step}"):
            optimizer.step(forward_and_backward)
    else:
        forward_and_backward()
        with user_code(StepError, f"the optimizer's step {step}"):
            optimizer.step()
    for scheduler in workload.schedulers:
        with user_code(StepError, f"the learning-rate schedule of step {step}"):
            scheduler.step()
    return float(value)


def _check_loss(loss: Any, step: int) -> None:
    if not isinstance(loss, Tensor):
        raise StepError(
            f"the loss of step {step} is a {type(loss).__name__}, not a tensor",
            hint="return the tensor itself, without .item() or float()",
        )
    if loss.numel() != 1:
        raise StepError(
            f"the loss of step {step} is not one number but {sizes(loss)}",
            hint="reduce it, for example with .mean()",
        )
    if not loss.requires_grad:
        raise StepError(
            f"the loss of step {step} does not require grad: no parameter takes part in it",
            hint="look for detach(), .data, no_grad(), argmax or numpy on the way to the loss",
        )
