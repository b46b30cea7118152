"""Takes one step of a training that is run again under the watch for births.

Everything of that step is seen, from the batch to the update: also what the loss code does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.observe import patches, private
from gradscope.observe.birth.births import BirthWatch, Origin
from gradscope.observe.birth.finite import state_of


class StepUnderWatch:
    """A ``Listener`` that ends one step as soon as something in it is not finite.

    ``begin`` is to be called when the step before has ended, ``done`` gets the origin, or None
    where the step stayed finite.
    """

    def __init__(
        self,
        done: Callable[[Origin | None], None],
        parameters: Callable[[], Any],
        batch: int | None = None,
    ) -> None:
        """Make one.

        Args:
            done: told once; it ends the process as a rule.
            parameters: gives the watched parameters.
            batch: samples in a batch, where it is known.
        """
        self._done = done
        self._parameters = parameters
        self._watch = BirthWatch(batch=batch)
        self._leave = contextlib.ExitStack()

    def begin(self) -> None:
        """The step begins."""
        with torch.no_grad():
            self._watch.declare(self._parameters(), "parameter")
        self._leave.enter_context(private.eagerly())
        self._leave.enter_context(self._watch)
        patches.add(self)

    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """The loss is there: a NaN in it was made before."""
        with torch.no_grad():
            if any(map(state_of, tensors)):
                self._tell(self._watch.origin_of(tensors))

    def step_begin(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """The gradients are there."""
        with torch.no_grad():
            gradients = [p.grad for p in self._parameters() if p.grad is not None]
            self._tell(self._watch.origin_of(gradients))

    def clip(self, _parameters: Any, _max_norm: float, _total_norm: Tensor) -> None:
        """They are there, and not spoilt yet by a norm that is not finite."""
        with torch.no_grad():
            gradients = [p.grad for p in self._parameters() if p.grad is not None]
            found = self._watch.origin_of(gradients)
        if found is not None:
            self._tell(found)

    def _tell(self, found: Origin | None) -> None:
        patches.remove(self)
        self._leave.close()
        self._done(found)

    def __getattr__(self, name: str) -> Any:
        # of the other calls of the loop nothing is wanted
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None
