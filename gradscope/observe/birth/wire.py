"""The trip-wire: a look on every step that does not read all gradients.

It sees the loss, the total norm where the script's own clip computes it, and a few elements of a
few gradients: those nearest the input always, since a non-finite gradient spreads towards the
input, the others in turn. What it misses shows in the next loss.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from gradscope.observe.reading.samples import flat_sample, plain

NEAREST = 4
"""Parameters nearest the input that are looked at on every step."""
IN_TURN = 4
"""Further parameters that are looked at in turn."""
ELEMENTS = 64
HISTORY = 50
LEAST_HISTORY = 20
JUMP = 10.0
"""A loss or norm this many times its running median is an alarm (the largest healthy step in small
trainings was about 5 times its median; a spike that harms is far above)."""
ALARMS_PER_KIND = 20
"""After this many of one kind nothing new is learned: a poisoned training alarms on every step."""


SEARCHES_PER_KIND = 5
"""Searches for an origin: the first alarm may belong to a step that a loss scaler then skips."""
SKIPS_IN_A_ROW = 20
"""A loss scaler that begins at 2**16 is down to 1 after 17 skipped steps: what it still meets after
this many is no matter of its scale."""


class Wire:
    """Remembers the running medians and what has already been reported."""

    def __init__(self) -> None:
        self._history: dict[str, deque[float]] = {
            "loss": deque(maxlen=HISTORY),
            "norm": deque(maxlen=HISTORY),
        }
        self._turn = 0
        self._reported: dict[str, int] = {}
        self._searched: dict[str, int] = {}

    def may_search(self, kind: str) -> bool:
        """Whether the origin of an alarm of ``kind`` is still worth a search; counts it."""
        self._searched[kind] = self._searched.get(kind, 0) + 1
        return self._searched[kind] <= SEARCHES_PER_KIND

    def may_report(self, kind: str) -> bool:
        """Whether an alarm of ``kind`` is still worth recording; counts it."""
        self._reported[kind] = self._reported.get(kind, 0) + 1
        return self._reported[kind] <= ALARMS_PER_KIND

    def jumped(self, what: str, value: float) -> float | None:
        """The limit that ``value`` of ``loss`` or ``norm`` exceeds, None if it is ordinary.

        The value is compared with a history that excludes it.
        """
        history = self._history[what]
        limit = None
        if len(history) >= LEAST_HISTORY and math.isfinite(value):
            bound = JUMP * abs(statistics.median(history))
            limit = bound if bound and abs(value) > bound else None
        if math.isfinite(value):
            history.append(value)
        return limit

    def chosen(self, count: int) -> list[int]:
        """Positions, among ``count`` parameters, of those that are looked at on this step."""
        chosen = list(range(min(NEAREST, count)))
        others = count - len(chosen)
        turns = range(self._turn, self._turn + min(IN_TURN, others))
        self._turn += IN_TURN
        return chosen + [NEAREST + turn % others for turn in turns]

    def gradients_finite(self, parameters: Sequence[Tensor]) -> bool:
        """Look at a few elements of a few gradients; True if all of them are finite."""
        return look([parameters[index] for index in self.chosen(len(parameters))]).finite()


@torch.no_grad()
def look(parameters: Sequence[Tensor]) -> Glance:
    """Take a few elements of each gradient; nothing is waited for until it is read."""
    looked: list[int] = []
    parts: list[Tensor] = []
    for index, parameter in enumerate(parameters):
        grad = parameter.grad
        if grad is None or grad.layout is not torch.strided:
            continue
        part = _few(grad)
        if part is not None:
            parts.append(part)
            looked.append(index)
    if not parts:
        return Glance((), (), None)
    sizes = tuple([part.numel() for part in parts])
    try:
        return Glance(tuple(looked), sizes, torch.cat(parts))
    except RuntimeError:  # of several devices
        return Glance(tuple(looked), sizes, torch.cat([part.to(parts[0].device) for part in parts]))


class Glance:
    """What one look at the gradients has seen: copies of at most 512 elements.

    Attributes:
        looked: positions of the parameters that were looked at.
        sizes: elements looked at of each.
    """

    __slots__ = ("_elements", "looked", "sizes")

    def __init__(
        self, looked: tuple[int, ...], sizes: tuple[int, ...], elements: Tensor | None
    ) -> None:
        self.looked, self.sizes = looked, sizes
        self._elements = elements

    def rms(self) -> list[float]:
        """Root mean square over the elements looked at, for each of ``looked``."""
        if self._elements is None:
            return []
        parts = self._elements.to(torch.float64).split(list(self.sizes))
        return [float(part.square().mean().sqrt()) for part in parts]

    def finite(self) -> bool:
        """Whether everything that was looked at is finite; waits for the device."""
        if self._elements is None:
            return True
        # a sum is NaN or Inf if an element is (two Infs of different sign give NaN)
        return math.isfinite(float(self._elements.sum(dtype=torch.float32)))


def _few(grad: Tensor) -> Tensor | None:
    """At most ELEMENTS elements of a gradient at a fixed stride, as a view where it is dense."""
    count = grad.numel()
    if type(grad) is Tensor and grad.is_contiguous() and grad.is_floating_point():
        if not count:
            return None
        # an odd stride meets all columns of a power-of-two matrix, an even one only some
        stride = -(-count // ELEMENTS) | 1
        return grad.as_strided((-(-count // stride),), (stride,))
    dense = plain(grad)
    return None if dense is None or not dense.numel() else flat_sample(dense, ELEMENTS)
