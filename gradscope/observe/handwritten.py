"""Where a step of a hand-written update ends, when no optimizer says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.observe.leftover import ELEMENTS, LOOKED_AT, Before, gradient_state
from gradscope.observe.samples import flat_sample, plain


class HandWritten:
    """Tells by a few parameters, from one backward call to the next, whether a step lies between.

    Either their gradients were cleared, or they moved: then the step's gradients were kept. Several
    backward calls on parameters that stand still are micro-batches of one step.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, Tensor | None]] = []

    @torch.no_grad()
    def after_backward(self, trainable: Sequence[tuple[int, Tensor]]) -> None:
        """A backward call has returned: remember where the parameters stand."""
        self._seen = [(p._version, _sample(p)) for _, p in trainable[:LOOKED_AT]]

    @torch.no_grad()
    def ended(self, trainable: Sequence[tuple[int, Tensor]]) -> Before | None:
        """What became of the gradients if a step has ended since; None: it has not."""
        some = [parameter for _, parameter in trainable[:LOOKED_AT]]
        state = gradient_state(some, read=True)
        if state != "carried":
            return state
        return "carried" if self._moved(some) else None

    def _moved(self, parameters: list[Tensor]) -> bool:
        for parameter, (version, before) in zip(parameters, self._seen, strict=False):
            if parameter._version != version:
                return True
            now = _sample(parameter)
            # an update through ``.data`` leaves the version as it was
            if before is not None and now is not None and not torch.equal(before, now):
                return True
        return False


def _sample(parameter: Tensor) -> Tensor | None:
    dense = plain(parameter)
    return None if dense is None else flat_sample(dense, ELEMENTS).clone()
