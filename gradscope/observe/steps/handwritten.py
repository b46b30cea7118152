"""An update without an optimizer: where its steps end, and which gradients they use.

The clock is the backward call. A step has ended when the next one begins and, meanwhile, the
gradients were cleared or the parameters moved; several backward calls on parameters that stand
still are micro-batches of one step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.private import version
from gradscope.observe.reading.samples import flat_sample, plain
from gradscope.observe.recorder import Recorder
from gradscope.observe.steps.leftover import ELEMENTS, LOOKED_AT, Before, gradient_state


class HandWritten:
    """Groups backward calls into steps as long as no optimizer is known.

    Attributes:
        open: calls of a group have been seen, and not its end.
    """

    def __init__(
        self, guard: Guard, inventory: Inventory, recorder: Recorder, close: Callable[[], None]
    ) -> None:
        """Make one; ``close`` ends the open step."""
        self.open = False
        self._guard = guard
        self._inventory = inventory
        self._recorder = recorder
        self._close = close
        self._seen: list[tuple[int, Tensor | None]] = []
        self._asked = False
        """The gradients of the group were returned by ``autograd.grad``."""
        self._used_inside = False
        """Hooks of the user's use and clear each gradient inside backward."""
        self._handles: list[RemovableHandle] = []

    def before_backward(self) -> Before | None:
        """A call begins: what became of the gradients, if a step has ended since; else None."""
        if self._inventory.has_optimizer:
            return None
        before = self._ended() if self.open else None
        if before is not None:
            self._close()
        if self._used_inside and self._recorder.plan.parameters:
            self._listen()
        return before

    def after_backward(self, *, scaled: bool) -> None:
        """It has returned: the gradients are complete, as far as this call is the last of a step.

        Args:
            scaled: the loss was multiplied by a loss scaler, so the gradients are not used as such.
        """
        self.open = True
        self._silence()
        if self._inventory.has_optimizer:
            return
        self._asked = False
        trainable = self._inventory.trainable()
        self._remember(trainable)
        if all(parameter.grad is None for _, parameter in trainable):
            self._used_inside = True
        elif not scaled:
            self._recorder.gradients_made({})

    def after_asked(self, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """``autograd.grad`` has returned ``gradients`` of ``inputs``, some of them parameters."""
        self.open = True
        if self._inventory.has_optimizer:
            return
        self._asked = True
        ids = [self._inventory.parameters.get(parameter) for parameter in inputs]
        made = {
            identity: gradient
            for identity, gradient in zip(ids, gradients, strict=True)
            if identity is not None and gradient is not None
        }
        self._remember(self._inventory.trainable())
        self._recorder.gradients_made(made)

    def clipped(self) -> None:
        """The gradients were clipped: these are the ones that the update will use."""
        if self.open and not self._inventory.has_optimizer and not self._asked:
            self._recorder.gradients_made({})

    def finish(self) -> None:
        """The watching ends, and with it the last step."""
        self._silence()
        if self.open and not self._inventory.has_optimizer:
            self._close()

    # ------------------------------------------------------------------ the end of a step

    @torch.no_grad()
    def _remember(self, trainable: Sequence[tuple[int, Tensor]]) -> None:
        self._seen = [(version(p), _sample(p)) for _, p in trainable[:LOOKED_AT]]

    @torch.no_grad()
    def _ended(self) -> Before | None:
        some = [parameter for _, parameter in self._inventory.trainable()[:LOOKED_AT]]
        if self._asked:
            return "none" if self._moved(some) else None
        state = gradient_state(some, read=True)
        if state != "carried":
            return state
        return "carried" if self._moved(some) else None

    def _moved(self, parameters: list[Tensor]) -> bool:
        for parameter, (before, sample) in zip(parameters, self._seen, strict=False):
            if version(parameter) != before:
                return True
            now = _sample(parameter)
            # an update through ``.data`` leaves the version as it was
            if sample is not None and now is not None and not torch.equal(sample, now):
                return True
        return False

    # ------------------------------------------------------------------ used inside backward

    def _listen(self) -> None:
        """Read each gradient before it is accumulated: after backward none is left."""
        self._silence()
        trainable = self._inventory.trainable()
        self._recorder.updates_begin(trainable)
        for identity, parameter in trainable:
            hook = functools.partial(self._arrived, identity)
            self._handles.append(parameter.register_hook(self._guard.wrap(hook)))

    def _arrived(self, identity: int, gradient: Tensor) -> None:
        self._recorder.gradient_arrived(identity, gradient)

    def _silence(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _sample(parameter: Tensor) -> Tensor | None:
    dense = plain(parameter)
    return None if dense is None else flat_sample(dense, ELEMENTS).clone()
