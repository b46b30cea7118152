"""Which forwards of the roots belong to a training step.

A step may hold forwards that no loss was made of: a validation with grad enabled, a sample drawn
for the log. They are told apart by the gradients: none of theirs arrives.
"""

from __future__ import annotations

from collections.abc import Collection

ROOT_CALLS = 4
"""Forwards of one root that are read in one step: more are accumulation, and a mean over four says
the same."""
EVALUATIONS = 8
"""Forwards of one root in one step without a gradient after which those of the other mode (eval in
place of train) are not read any more: a validation is as long as it likes."""
OUTSIDE = 0
"""Of modules that are called without their root."""
AGAIN = -1
"""Of a checkpointed block that runs again inside backward: always part of the step."""


class Passes:
    """The forwards of the roots in the open step, numbered from 1.

    Attributes:
        current: number of the forward that runs, else OUTSIDE.
        reading: whether it is read.
    """

    def __init__(self) -> None:
        self._mode: dict[int, bool] = {}
        """Of each root, whether it was in training mode when a gradient last came to it."""
        self.clear()

    def clear(self) -> None:
        """A step begins."""
        self.current, self.reading = OUTSIDE, True
        self._number = 0
        self._of: dict[int, tuple[int, bool]] = {}
        self._trained: set[int] = set()

    def begin(self, root: int, *, training: bool) -> int | None:
        """The outermost forward of a root begins.

        Returns:
            The number of an earlier one without a gradient, whose readings make room for it.
        """
        self._number += 1
        self.current = self._number
        mine = [number for number, (of, _) in self._of.items() if of == root]
        idle = [number for number in mine if number not in self._trained]
        usual = self._mode.get(root, training)
        evaluation = len(idle) >= ROOT_CALLS and self._number > EVALUATIONS and training != usual
        self.reading = not evaluation and len(mine) - len(idle) < ROOT_CALLS
        if not self.reading:
            return None
        self._of[self._number] = root, training
        if len(idle) < ROOT_CALLS:
            return None
        del self._of[idle[0]]
        return idle[0]

    def end(self) -> None:
        """It ends."""
        self.current, self.reading = OUTSIDE, True

    def first(self, root: int) -> bool:
        """Whether the forward that runs is the first of this root in the step, or of no root."""
        return self.current == OUTSIDE or not any(
            of == root and number < self.current for number, (of, _) in self._of.items()
        )

    def arrived(self, number: int) -> None:
        """A gradient of the loss came to a tensor of this forward."""
        if number not in self._trained:
            self._trained.add(number)
            if number in self._of:
                root, training = self._of[number]
                self._mode[root] = training

    def idle(self) -> Collection[int]:
        """Forwards of roots that had gradients in another forward of this step, but not here."""
        busy = {self._of[number][0] for number in self._trained if number in self._of}
        return {n for n, (of, _) in self._of.items() if of in busy and n not in self._trained}
