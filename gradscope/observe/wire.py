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

from gradscope.observe.samples import flat_sample, plain

NEAREST = 4
"""Parameters nearest the input that are looked at on every step."""
IN_TURN = 8
"""Further parameters that are looked at in turn."""
ELEMENTS = 64
HISTORY = 50
LEAST_HISTORY = 20
JUMP = 10.0
"""A loss or norm this many times its running median is an alarm (the largest healthy step in small
trainings was about 5 times its median; a spike that harms is far above)."""
ALARMS_PER_KIND = 20
"""After this many of one kind nothing new is learned: a poisoned training alarms on every step."""


class Wire:
    """Remembers the running medians and what has already been reported."""

    def __init__(self) -> None:
        self._history: dict[str, deque[float]] = {
            "loss": deque(maxlen=HISTORY),
            "norm": deque(maxlen=HISTORY),
        }
        self._turn = 0
        self._reported: dict[str, int] = {}

    def first(self, kind: str) -> bool:
        """Whether no alarm of ``kind`` has been reported yet."""
        return kind not in self._reported

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

    @torch.no_grad()
    def gradients_finite(self, parameters: Sequence[Tensor]) -> bool:
        """Look at a few elements of a few gradients; True if all of them are finite."""
        chosen = list(parameters[:NEAREST])
        others = parameters[NEAREST:]
        turns = range(self._turn, self._turn + min(IN_TURN, len(others)))
        chosen += [others[turn % len(others)] for turn in turns]
        self._turn += IN_TURN
        parts = []
        for parameter in chosen:
            grad = parameter.grad
            if grad is None or grad.layout is not torch.strided:
                continue
            dense = plain(grad)
            if dense is not None and dense.numel():
                parts.append(flat_sample(dense, ELEMENTS).sum(dtype=torch.float32))
        if not parts:
            return True
        # a sum is NaN or Inf if an element is (two Infs of different sign give NaN)
        return math.isfinite(float(torch.stack([p.to(parts[0].device) for p in parts]).sum()))
