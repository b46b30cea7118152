"""First weights whose scale the data decide, set on the first batch of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.advise.treatments.places import Place
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.experiment.steering import after


class FromFirstBatch(Intervention):
    """LSUV: orthogonal weights, scaled so that each layer's first output has variance 1.

    A forward pass goes from the input to the loss, so that each layer is scaled behind those
    whose output it reads, as the method asks (Mishkin and Matas 2016), and no pass is made twice.

    Args:
        places: linear layers and convolutions.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        self.places = tuple(places)
        self._handles: dict[nn.Module, Any] = {}

    @torch.no_grad()
    def model(self, root: nn.Module) -> None:
        """Draw the directions, and wait for the first batch."""
        for place in self.places:
            module = place.of(root)
            weight = getattr(module, "weight", None)
            # a weight that is computed (weight_norm) cannot be set
            if module is None or module in self._handles or not isinstance(weight, nn.Parameter):
                continue
            nn.init.orthogonal_(weight)
            if isinstance(getattr(module, "bias", None), Tensor):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            self._handles[module] = after(module, self._scale)

    def _scale(self, module: Any, inputs: Any, output: Any) -> Any:
        self._handles.pop(module).remove()
        if not inputs or not isinstance(output, Tensor):
            return output
        with torch.no_grad():
            # without a bias the output is linear in the weights: one division is exact
            spread = float(output.float().std())
            if not 0 < spread < float("inf"):
                return output
            module.weight.div_(spread)
        # autocast keeps a copy of the weight as it was
        torch.clear_autocast_cache()
        self.applied = True
        return module.forward(*inputs)
