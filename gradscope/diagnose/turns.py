"""The ordered calls of the training loop, cut into turns: one step of one optimizer each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from gradscope.diagnose.once import once
from gradscope.recording.reader import Recording

Cleared = Literal["cleared", "carried", "unknown"]

MAKES_GRADIENTS = ("backward", "autograd-grad")
"""Events after which gradients are fresh."""
HAND_WRITTEN = -1
"""Ordinal that stands for an update without an optimizer."""


@dataclass(frozen=True, slots=True)
class Event:
    """One call: columns of table ``events``, absent values as None."""

    step: int
    kind: str
    optimizer: int | None
    site: str
    value: float | None
    limit: float | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What happened from one step of an optimizer to its next.

    Attributes:
        optimizer: its ordinal.
        step: number of the step that ends the turn.
        first: it is the optimizer's first.
        events: the calls since its step before, without the step itself; with a closure those that
            the closure made, too.
        gradient: ``none``, ``zero`` or ``same`` where the gradients used were so, else "".
        site: ``file:line`` of the step, "" if unknown.
    """

    optimizer: int
    step: int
    first: bool
    events: tuple[Event, ...]
    gradient: str
    site: str

    def last_fresh(self) -> int:
        """Position of the last event that made gradients; -1 for none."""
        at = [i for i, event in enumerate(self.events) if event.kind in MAKES_GRADIENTS]
        return at[-1] if at else -1

    @property
    def cleared(self) -> Cleared:
        """Whether the gradients of the step before were gone when this turn's were made."""
        lefts = [
            event.detail["left"].get(str(self.optimizer))
            for event in self.events
            if event.kind == "backward" and event.detail.get("left")
        ]
        called = any(e.kind == "zero-grad" and e.optimizer == self.optimizer for e in self.events)
        if called or "none" in lefts or "zero" in lefts:
            return "cleared"
        return "carried" if "carried" in lefts else "unknown"


@dataclass(slots=True)
class _Open:
    events: list[Event] = field(default_factory=list)
    first: bool = True
    whole: bool = True
    """No step between is missing from the recording."""


@once
def turns(recording: Recording) -> tuple[Turn, ...]:
    """Every turn of which all calls were recorded, in the order of its steps.

    In a long run the steps in the middle are thinned. With one optimizer a step's own events are
    its turn; with several a turn that spans a gap is left out.
    """
    steps = recording.steps
    numbers = steps["step"].to_numpy(int)
    optimizers = dict(zip(numbers, steps["optimizer"].to_numpy(int), strict=True))
    several = len(set(optimizers.values())) > 1
    open_turns = {ordinal: _Open() for ordinal in set(optimizers.values())}
    found: list[Turn] = []
    before: int | None = None
    for number, group in _by_step(recording.events):
        if before is not None and number > before + 1 and several:
            for turn in open_turns.values():
                turn.events, turn.whole, turn.first = [], False, False
        before = number
        for turn in open_turns.values():
            turn.events += [event for event in group if event.kind != "step"]
        ordinal = optimizers.get(number)
        if ordinal is None:
            continue  # the run ended in the middle of it
        own = open_turns[ordinal]
        ends = [e for e in group if e.kind == "step" and e.optimizer == ordinal]
        if own.whole and (ends or ordinal == HAND_WRITTEN):
            gradient = str(ends[-1].detail.get("gradient") or "") if ends else ""
            site = ends[-1].site if ends else ""
            events = tuple(own.events)
            found.append(Turn(ordinal, number, own.first, events, gradient, site))
        open_turns[ordinal] = _Open(first=False)
    return tuple(found)


def _by_step(events: pd.DataFrame) -> Iterator[tuple[int, list[Event]]]:
    columns = ("step", "kind", "optimizer", "site", "value", "limit", "detail")
    group: list[Event] = []
    # a missing number is None: asked of each by itself, a long run takes seconds
    present = [events[name].astype(object).where(events[name].notna(), None) for name in columns]
    for row in zip(*(column.tolist() for column in present), strict=True):
        step, kind, optimizer, site, value, limit, detail = row
        event = Event(
            int(step), str(kind),
            None if optimizer is None else int(optimizer),
            site if isinstance(site, str) else "",
            None if value is None else float(value),
            None if limit is None else float(limit),
            detail if isinstance(detail, dict) else {},
        )  # fmt: skip
        if group and group[0].step != event.step:
            yield group[0].step, group
            group = []
        group.append(event)
    if group:
        yield group[0].step, group
