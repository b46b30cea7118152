"""What a step leaves behind: gradients that are carried into the next one, cleared, or used twice.

A call of an optimizer's ``zero_grad`` is seen as a call. Everything else that clears gradients
(``p.grad = None``, ``p.grad.zero_()``, ``model.zero_grad()`` on a part) is seen in the gradients of
a few parameters, and only where no such call explains them: an ordinary loop costs no read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gradscope.observe.private import version
from gradscope.observe.reading.samples import flat_sample, plain

LOOKED_AT = 4
"""Parameters of an optimizer that are looked at: one with an exact zero for other reasons (a bias
without effect, a dead unit's weight) must not make the rest look cleared."""
ELEMENTS = 256
"""Elements of each that are read where reading is needed."""

Before = Literal["none", "zero", "carried"]
Used = Literal["none", "zero", "same"]


@dataclass
class _Mark:
    """One optimizer since its last step."""

    held: list[weakref.ref[Tensor]]
    """A few parameters of it."""
    left: list[tuple[int, int]] = field(default_factory=list)
    """``id`` and version of the gradients that it used; nothing of them is kept."""
    waiting: bool = False
    """They have not been seen to be cleared."""
    backward: bool = False
    """A backward call has begun since."""
    cleared_last: bool = False
    """The last thing seen is a call that clears gradients, not a backward."""

    @property
    def parameters(self) -> list[Tensor]:
        """Those of its parameters that still live."""
        return [parameter for ref in self.held if (parameter := ref()) is not None]


class Leftover:
    """Follows the gradients of each optimizer from step to step."""

    def __init__(self) -> None:
        self._marks: dict[int, _Mark] = {}

    def cleared(self, ordinal: int | None) -> None:
        """``zero_grad`` of an optimizer, or of a module (None), is about to run."""
        for own, mark in self._marks.items():
            if ordinal is None or own == ordinal:
                mark.cleared_last = True
        if ordinal in self._marks:
            self._marks[ordinal].waiting = False

    def before_backward(self, *, read: bool) -> dict[str, Before]:
        """What became of the gradients that each optimizer's last step used.

        Args:
            read: elements may be read; without it only ``none`` can be told.

        Returns:
            by ordinal as text, for those whose own ``zero_grad`` was not called since; empty in an
            ordinary loop.
        """
        found: dict[str, Before] = {}
        for ordinal, mark in self._marks.items():
            mark.backward, mark.cleared_last = True, False
            if not mark.waiting:
                continue
            # their versions do not tell: `p.grad.data.zero_()` leaves them as they were
            state = gradient_state(mark.parameters, read=read)
            if state is not None:
                found[str(ordinal)] = state
                mark.waiting = state == "carried"
        return found

    def asked(self) -> None:
        """``autograd.grad`` makes gradients that the loop sets: none is accumulated into them."""
        for mark in self._marks.values():
            mark.backward, mark.cleared_last, mark.waiting = True, False, False

    def before_step(self, ordinal: int, held: Iterable[Tensor]) -> Used | None:
        """What is unusual about the gradients that a step is about to use; None: nothing.

        Args:
            ordinal: the optimizer's.
            held: its parameters, the last one first; only as many are taken as are needed.

        Returns:
            ``none`` or ``zero`` where they were cleared after the last backward or never made,
            ``same`` where they are untouched since the optimizer's last step.
        """
        mark = self._marks.get(ordinal)
        if mark is None:
            mark = self._marks[ordinal] = _Mark(_weak(_few(held)))
            # before its first step nobody told which optimizer a call belongs to
            state = gradient_state(mark.parameters, read=False)
            return "none" if state == "none" else None
        if mark.backward and not mark.cleared_last:
            return None
        if mark.left and not mark.backward and _untouched(mark):
            return "same"
        state = gradient_state(mark.parameters, read=mark.cleared_last)
        return None if state == "carried" else state

    def stepped(self, ordinal: int, held: Iterable[Tensor]) -> None:
        """A step has used the gradients; arguments as for ``before_step``."""
        few = _few(held)
        left = [(id(p.grad), version(p.grad)) for p in few if p.grad is not None]
        self._marks[ordinal] = _Mark(_weak(few), left, waiting=bool(left))


def _few(held: Iterable[Tensor]) -> list[Tensor]:
    """A few parameters with a gradient, those nearest the output; without one, the last ones."""
    found: list[Tensor] = []
    last: list[Tensor] = []
    for parameter in held:
        if len(last) < LOOKED_AT:
            last.append(parameter)
        if parameter.grad is not None:
            found.append(parameter)
            if len(found) == LOOKED_AT:
                break
    return found or last


def _weak(parameters: list[Tensor]) -> list[weakref.ref[Tensor]]:
    return [weakref.ref(parameter) for parameter in parameters]


def _untouched(mark: _Mark) -> bool:
    gradients = [p.grad for p in mark.parameters if p.grad is not None]
    return len(gradients) == len(mark.left) and all(
        id(grad) == identity and version(grad) == seen
        for grad, (identity, seen) in zip(gradients, mark.left, strict=True)
    )


@torch.no_grad()
def gradient_state(parameters: Sequence[Tensor], *, read: bool) -> Before | None:
    """Whether the gradients of ``parameters`` are all gone, all zero, or not; None: not told."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return "none"
    if not read:
        return None
    dense = [plain(grad) for grad in gradients if grad.layout is torch.strided]
    samples = [flat_sample(grad, ELEMENTS) for grad in dense if grad is not None and grad.numel()]
    if not samples:
        return None
    return "carried" if any(bool(sample.any()) for sample in samples) else "zero"
