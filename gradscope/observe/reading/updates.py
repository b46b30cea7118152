"""What an optimizer step really did, from a fixed strided sample taken before and after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gradscope.observe.reading.update_rows import Read, Rows, no_rows
from gradscope.observe.reading.updates_by_kernel import KernelUpdates
from gradscope.observe.reading.updates_by_torch import TorchUpdates
from gradscope.recording.facts import UPDATE_SAMPLE_SIZE


class UpdateWatch:
    """Compares samples of parameters before and after a step.

    Holds one sample of at most 4,096 elements a parameter between ``before`` and ``after``, and one
    from the first look for the distance travelled. No parameter or gradient is kept.
    """

    def __init__(self, *, exact: bool = False) -> None:
        """Make one; ``exact`` compares all elements, in the memory of a copy of all parameters."""
        size = sys.maxsize if exact else UPDATE_SAMPLE_SIZE
        self._by_kernel, self._by_torch = KernelUpdates(size), TorchUpdates(size)

    def drop(self) -> None:
        """Forget what ``before`` took."""
        self._by_kernel.drop()
        self._by_torch.drop()

    @torch.no_grad()
    def before(
        self,
        parameters: Sequence[tuple[int, Tensor]],
        scale: Tensor | None = None,
        given: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Take the samples of parameters and their gradients just before the step.

        Of a parameter with a sparse gradient only the rows that it touches are looked at.

        Args:
            parameters: id and parameter.
            scale: what a fused optimizer will divide the gradients by, or None.
            given: gradients by id that are used in place of ``.grad``.
        """
        compiled: list[Read] = []
        others: list[Read] = []
        for identity, parameter in parameters:
            grad = given.get(identity, parameter.grad) if given else parameter.grad
            readable = self._by_kernel.reads(parameter, grad)
            (compiled if readable else others).append((identity, parameter, grad))
        divisor = None if scale is None else float(scale)
        self._by_kernel.before(compiled, divisor)
        self._by_torch.before(others, divisor)

    @torch.no_grad()
    def after(self, step: int, parameter: Callable[[int], Tensor | None]) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and of ``sketches`` for the samples taken by ``before``.

        Args:
            step: the step.
            parameter: the parameter with an id, None for one that is gone: none is held in between.
        """
        parts = [by.after(step, parameter) for by in (self._by_kernel, self._by_torch)]
        parts = [part for part in parts if len(part[0])]
        if len(parts) < 2:
            return parts[0] if parts else no_rows()
        rows, sketches = (np.concatenate(tables) for tables in zip(*parts, strict=True))
        return rows, sketches
