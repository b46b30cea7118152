"""What an observer of the patched functions is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Listener(Protocol):
    """What an observer is told. Every method returns None except ``step_begin``."""

    def backward_begin(self, tensors: Sequence[torch.Tensor]) -> None:
        """Outermost ``torch.autograd.backward`` is about to run on ``tensors``."""

    def backward_end(self) -> None:
        """It has returned or raised."""

    def autograd_grad_begin(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> None:
        """Outermost ``torch.autograd.grad`` is about to run."""

    def autograd_grad_end(
        self, inputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]
    ) -> None:
        """It has returned ``gradients``, or raised (then they are empty)."""

    def swap_begin(self, tensors: Sequence[torch.Tensor]) -> None:
        """``swap_tensors`` is about to run, and refuses tensors that are held weakly."""

    def swap_end(self) -> None:
        """It has returned or raised."""

    def process_start(self, process: Any) -> None:
        """A process of ``multiprocessing`` is about to be started."""

    def save_begin(self) -> None:
        """``torch.save`` is about to run, and writes down a module's hooks."""

    def save_end(self) -> None:
        """It has returned or raised."""

    def script_begin(self, target: Any) -> None:
        """``torch.jit.script`` is about to run, and refuses a module with hooks."""

    def script_end(self) -> None:
        """It has returned or raised."""

    def clip(self, parameters: Any, max_norm: float, total_norm: torch.Tensor) -> None:
        """``clip_grad_norm_`` has computed the total norm and is about to scale."""

    def clip_value(self, parameters: Any, limit: float) -> None:
        """``clip_grad_value_`` is about to clamp."""

    def clip_end(self) -> None:
        """One of the two has returned or raised."""

    def scaled(self, loss: Any, scaled: Any) -> None:
        """``GradScaler.scale(loss)`` has returned ``scaled``."""

    def unscaled(self, scaler: Any, optimizer: Any) -> None:
        """``GradScaler.unscale_`` has run on an optimizer's gradients."""

    def scaler_step(self, optimizer: Any, stepped: bool) -> None:
        """``GradScaler.step`` has run; ``stepped`` is False when it skipped the optimizer."""

    def compiling(self, target: Any) -> None:
        """``torch.compile`` is about to take a module or a function (None: as a decorator)."""

    def compiled(self, target: Any, result: Any) -> None:
        """``torch.compile`` has made ``result`` of it."""

    def zero_grad(self, owner: Any) -> None:
        """``zero_grad`` of an optimizer or a module is about to run."""

    def step_begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """``optimizer.step`` is about to run; may return replaced arguments (a wrapped closure)."""

    def step_end(self, optimizer: Any) -> None:
        """``optimizer.step`` has returned."""
