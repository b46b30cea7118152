"""What is kept of a long run: pure decisions, without files.

Steps are kept whole at both ends of a run; what lies between is thinned, series by series, to one
in ``stride`` steps, where the stride is the least power of two that keeps the series within its
limit. A step that keeps its activations keeps its gradients too, and a step that keeps either
keeps its step records: what is left of a step can be read together. Tables without a series
(alarms, parameters, modules, the run, sources, examined, gradchecks) are never thinned.

With the default limits a run of a million steps over 1,000 parameters, each sampled on every step,
holds (100 + 500 + 256) steps x 386 bytes x 1,000 for gradients, updates and two sketches, about
330 MB, and 730 steps of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.recording.segments import NO_STEP

SERIES: dict[str, int] = {
    "gradients": 0, "updates": 0, "sketches": 0,
    "activations": 1, "units": 1, "losses": 1, "through_time": 1,
    "steps": 2, "events": 2,
}  # fmt: skip
"""Series of a table: 0 sampled parameters, 1 sampled modules, 2 every step."""
NUMBER_OF_SERIES = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of what is kept.

    Attributes:
        first: steps kept whole at the beginning.
        last: steps kept whole at the end.
        middle: steps kept between, for each series; between half of it and all of it are there.
        alarms: steps with one of the first alarms, kept whole.
        segment_bytes: size at which a segment file is finished and the next one begun.
    """

    first: int = 100
    last: int = 500
    middle: tuple[int, int, int] = (256, 128, 20_000)
    alarms: int = 32
    segment_bytes: int = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decision needs to know of a block: its series (None: never thinned) and step."""

    series: int | None
    step: int
    ordinal: int
    """Running number of the step among the steps with this series."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the middle of a run is thinned at one moment.

    Attributes:
        head_end: first step behind the whole beginning.
        tail_start: first step of the whole end.
        strides: one in so many steps is kept, for each series.
        alarms: steps kept whole because of an alarm.
    """

    head_end: int
    tail_start: int
    strides: tuple[int, ...]
    alarms: frozenset[int] = frozenset()

    def keeps(self, marks: Sequence[Mark]) -> list[bool]:
        """Which of the blocks that were committed together are kept."""
        by_stride = [m.series is None or self._on_stride(m) for m in marks]
        full = {m.step for m, on in zip(marks, by_stride, strict=True) if on and m.series == 1}
        sampled = {
            m.step for m, on in zip(marks, by_stride, strict=True) if on and m.series in (0, 1)
        }
        return [
            on or (m.series == 0 and m.step in full) or (m.series == 2 and m.step in sampled)
            for m, on in zip(marks, by_stride, strict=True)
        ]

    def _on_stride(self, mark: Mark) -> bool:
        if mark.series is None or mark.step < self.head_end or mark.step >= self.tail_start:
            return True
        return mark.ordinal % self.strides[mark.series] == 0 or mark.step in self.alarms


class Course:
    """How far a run has come, as far as retention needs it.

    Attributes:
        newest: the newest step.
        ordinals: for each series the running number of its newest step, from 1.
        alarms: steps kept whole because of an alarm.
    """

    def __init__(self, policy: Policy) -> None:
        self.newest = NO_STEP
        self.ordinals = [0] * NUMBER_OF_SERIES
        self.alarms: set[int] = set()
        self._policy = policy
        self._first: int | None = None
        self._steps = [NO_STEP] * NUMBER_OF_SERIES
        self._behind: list[int | None] = [None] * NUMBER_OF_SERIES

    @property
    def head_end(self) -> int:
        """First step behind the beginning that is kept whole."""
        return (self._first or 0) + self._policy.first

    def see(self, series: int, step: int) -> int:
        """The running number of ``step`` in its series."""
        if self._first is None:
            self._first = step
        self.newest = max(self.newest, step)
        if step != self._steps[series]:
            self._steps[series] = step
            self.ordinals[series] += 1
            if self._behind[series] is None and step >= self.head_end:
                self._behind[series] = self.ordinals[series]
        return self.ordinals[series]

    def alarm(self, step: int) -> None:
        """Keep ``step`` whole, if it is among the first with an alarm."""
        if len(self.alarms) < self._policy.alarms:
            self.alarms.add(step)

    def plan(self, ordinals: Sequence[int]) -> Plan:
        """How the middle is thinned that reaches up to ``ordinals``."""
        strides = tuple(
            1 if behind is None else stride(last - behind + 1, limit)
            for last, behind, limit in zip(ordinals, self._behind, self._policy.middle, strict=True)
        )
        tail_start = self.newest - self._policy.last + 1
        return Plan(self.head_end, tail_start, strides, frozenset(self.alarms))


def stride(steps: int, limit: int) -> int:
    """The least power of two that leaves at most ``limit`` of ``steps`` steps (1 if none)."""
    power = 1
    while power * limit < steps:
        power *= 2
    return power
