"""Changes of the step: its rate, its clipping, when its gradients are cleared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.observe.experiment.intervention import Intervention


class Rate(Intervention):
    """The learning rate times a factor; a schedule goes on as it was, below it.

    Without an optimizer the gradients are multiplied: in a hand-written ``p -= lr * p.grad`` that
    is the same.

    Args:
        factor: of the rate.
        warm_up: steps over which the factor rises linearly to its value; 0 for none.
        constant: whether a schedule is switched off: each step has the first one's rate.
    """

    def __init__(self, factor: float, warm_up: int = 0, constant: bool = False) -> None:
        super().__init__()
        self.factor, self.warm_up, self.constant = factor, warm_up, constant
        self._steps = 0
        self._kept: dict[int, list[Any]] = {}
        self._first: dict[int, list[float]] = {}

    def _now(self) -> float:
        rising = min(1.0, (self._steps + 1) / self.warm_up) if self.warm_up else 1.0
        return self.factor * rising

    def step_begin(self, optimizer: Any) -> None:
        """Set the rates."""
        self.applied = True
        rates = [group.get("lr") for group in optimizer.param_groups]
        self._kept[id(optimizer)] = rates
        first = self._first.setdefault(id(optimizer), [float(r or 0.0) for r in rates])
        for group, rate, begun in zip(optimizer.param_groups, rates, first, strict=True):
            if rate is not None:
                group["lr"] = (begun if self.constant else rate) * self._now()

    def step_end(self, optimizer: Any) -> None:
        """Put them back, so that a schedule sees its own."""
        for group, rate in zip(
            optimizer.param_groups, self._kept.pop(id(optimizer), []), strict=False
        ):
            if rate is not None:
                group["lr"] = rate
        self._steps += 1


class HandWrittenRate(Intervention):
    """``Rate`` for an update that is written by hand: the gradients are multiplied."""

    def __init__(self, factor: float, warm_up: int = 0) -> None:
        super().__init__()
        self.factor, self.warm_up = factor, warm_up
        self._steps = 0

    @torch.no_grad()
    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """Multiply them."""
        self.applied = True
        rising = min(1.0, (self._steps + 1) / self.warm_up) if self.warm_up else 1.0
        self._steps += 1
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.factor * rising)


class Clip(Intervention):
    """A bound on the total norm of the gradients of each step."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    @torch.no_grad()
    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """Scale them down where their norm is above the limit."""
        self.applied = True
        held = [p.grad for p in parameters if p.grad is not None]
        if not held:
            return
        norms = torch.stack([g.float().norm() for g in held])
        total = float(norms.norm())
        if total > self.limit:
            for gradient in held:
                gradient.mul_(self.limit / (total + 1e-6))


class LoosenClip(Intervention):
    """A higher limit in the clipping calls of the loop."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def clip(self, limit: float) -> float | None:
        """The new limit."""
        self.applied = True
        return self.limit


class ClearAfterStep(Intervention):
    """Gradients are cleared after each step."""

    def step_end(self, optimizer: Any) -> None:
        """Clear them."""
        self.applied = True
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class ClearAfterHandWritten(Intervention):
    """The same for an update that is written by hand: before the next backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._held: Sequence[Tensor] = ()

    def loss(self, loss: Tensor) -> Tensor:
        """Clear what the step before has used."""
        for parameter in self._held:
            parameter.grad = None
        return loss

    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """Remember whose gradients are to be cleared."""
        self.applied = True
        self._held = parameters


class CorrectOrder(Intervention):
    """Backward, clip, step, zero_grad, in this order, whatever the order in the file.

    A ``zero_grad`` between backward and step is left out, a step without a new gradient does
    nothing, clipping takes place just before the step, and gradients are cleared behind it.

    Args:
        limit: of the loop's own clipping, where it comes at the wrong place; None for none.
    """

    def __init__(self, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        self._fresh = False
        self._clip = None if limit is None else Clip(limit)

    def loss(self, loss: Tensor) -> Tensor:
        """From here on the gradients are new ones."""
        self._fresh = True
        return loss

    def zero_grad(self, owner: Any) -> bool:
        """Not while gradients wait for their step."""
        self.applied = True
        return not self._fresh

    def clip(self, limit: float) -> float | None:
        """Not here, where the order is wrong."""
        return limit if self.limit is None else None

    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """Clip, where that is part of the order."""
        if self._clip is not None and self._fresh:
            self._clip.gradients(parameters)

    def step_begin(self, optimizer: Any) -> None:
        """Hide gradients that were used already."""
        self.applied = True
        if not self._fresh:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def step_end(self, optimizer: Any) -> None:
        """They have been used: clear them."""
        self._fresh = False
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
