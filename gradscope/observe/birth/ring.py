"""The last steps in memory, for the run-up to an alarm: written only when one is raised.

On a sampled step the full statistics of every gradient are on disk already. Of the steps between
the ring keeps what the trip-wire has read anyway: the loss, the total norm that a clip computed,
and a few elements of a few gradients. So it costs no read of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradscope.observe.birth.wire import Glance

LAST = 64
"""Steps kept, of each at most 8 parameters and 64 elements: 200 kB in all."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One step; ``ids`` are the parameters that the glance saw, in its order."""

    step: int
    loss: float | None
    norm: float | None
    ids: tuple[int, ...]
    glance: Glance | None


class Ring:
    """What the last steps looked like to the trip-wire."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=LAST)
        self._ids: tuple[int, ...] = ()
        self._glance: Glance | None = None

    def looked(self, ids: Sequence[int], glance: Glance) -> None:
        """The wire has looked at the gradients of the parameters ``ids`` in the open step."""
        self._glance = glance
        self._ids = tuple([ids[position] for position in glance.looked])

    def close(self, step: int, loss: float | None, norm: float | None) -> None:
        """The open step has ended."""
        self._entries.append(_Entry(step, loss, norm, self._ids, self._glance))
        self._ids, self._glance = (), None

    def records(self) -> list[dict[str, Any]]:
        """Column ``run_up`` of table ``alarms``, oldest first; each step is given once."""
        given = [_record(entry) for entry in self._entries]
        self._entries.clear()
        return given


def _record(entry: _Entry) -> dict[str, Any]:
    rms = [] if entry.glance is None else entry.glance.rms()
    by_id = {str(identity): value for identity, value in zip(entry.ids, rms, strict=True)}
    return {"step": entry.step, "loss": entry.loss, "norm": entry.norm, "rms": by_id}
