"""How large the gradient is that reaches each layer, looked at on a single step."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class GradientSizes:
    """Root mean square of the loss gradient at the output of each layer with weights.

    Attributes:
        sizes: by the layer's name, in the order of the forward pass; a layer that is called several
            times has the size over all its calls.
    """

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        self.sizes: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._handles = [
            module.register_forward_hook(functools.partial(self._called, name))
            for root in roots
            for name, module in root.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        ]

    def remove(self) -> None:
        """Look at no further pass."""
        for handle in self._handles:
            handle.remove()

    def _called(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if torch.is_grad_enabled() and isinstance(first, Tensor) and first.requires_grad:
            self.sizes.setdefault(name, math.nan)
            first.register_hook(functools.partial(self._reached, name))

    def _reached(self, name: str, gradient: Tensor) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        total += float(gradient.detach().double().square().sum())
        count += gradient.numel()
        self._sums[name] = total, count
        self.sizes[name] = math.sqrt(total / max(count, 1))
