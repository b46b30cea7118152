"""Changes of the number format and of the loss's scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe.experiment.intervention import Intervention


class Bfloat16(Intervention):
    """Autocasts to float16 go to bfloat16, which has the range of float32."""

    def model(self, root: nn.Module) -> None:
        """Weights that are float16 themselves stay so: only autocasts change."""

    def autocast(self, dtype: Any) -> Any:
        """The format."""
        if dtype is torch.float16:
            self.applied = True
            return torch.bfloat16
        return dtype


class LossScaling(Intervention):
    """The loss is multiplied before backward and the gradients divided before the step."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self._now = scale

    def loss(self, loss: Tensor) -> Tensor:
        """The scaled loss."""
        self.applied = True
        return loss.float() * self._now

    @torch.no_grad()
    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """Unscale; a step whose gradients overflowed is left out, and the scale is halved."""
        held = [(p, p.grad) for p in parameters if p.grad is not None]
        finite = all(bool(torch.isfinite(gradient).all()) for _, gradient in held)
        for parameter, gradient in held:
            if finite:
                gradient.div_(self._now)
            else:
                parameter.grad = None
        if not finite:
            self._now /= 2


class FullPrecision(Intervention):
    """Weights of half precision are kept in float32, and activations follow them."""

    def model(self, root: nn.Module) -> None:
        """Convert the model and what it is called with."""
        from gradscope.observe.experiment.steering import before

        half = (torch.bfloat16, torch.float16)
        if any(p.dtype in half for p in root.parameters()):
            root.float()
            self.applied = True
            before(root, _in_float32)


def _in_float32(_module: nn.Module, inputs: Any) -> Any:
    return tuple(
        x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x
        for x in inputs
    )
