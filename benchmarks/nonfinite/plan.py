"""The cases: operation × place × network × loop × number format × position in the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.nonfinite.hosts import HOSTS, PLACES
from benchmarks.nonfinite.operations import OPERATIONS, Operation

LOOPS = (
    "plain", "clip", "accumulation", "many-batches", "checkpoint", "autocast", "two-models",
    "closure", "weight-decay",
)  # fmt: skip
BATCH = 6
POSITIONS = ((0,), (3,), (5,), (1, 4))


@dataclass(frozen=True)
class Case:
    """One training that goes bad, and its healthy twin.

    Attributes:
        operation: what makes the NaN or Inf.
        place: where it stands.
        host: the kind of network.
        loop: the kind of training loop.
        dtype: number format of the weights.
        samples: which of the batch are bad.
        seed: of weights and data.
    """

    operation: Operation
    place: str
    host: str
    loop: str
    dtype: str
    samples: tuple[int, ...]
    seed: int

    @property
    def name(self) -> str:
        """All of it in one word."""
        where = ",".join(map(str, self.samples))
        parts = (self.operation.name, self.place, self.host, self.loop, self.dtype, where)
        return "/".join(parts)


def plan(size: str) -> tuple[Case, ...]:
    """The cases of a ``short`` or ``long`` run; the short ones are among the long ones.

    Every operation stands at every place once in the long plan; network, loop, format and position
    are drawn from a fixed seed, so that each of them meets many operations.
    """
    drawn = random.Random(7)
    cases = []
    for operation in OPERATIONS:
        for place in PLACES:
            loops = [loop for loop in LOOPS if _fits(loop, operation)]
            cases.append(
                Case(
                    operation,
                    place,
                    drawn.choice(tuple(HOSTS)),
                    drawn.choice(loops),
                    drawn.choice(operation.dtypes + ("float32",) * ("float32" in operation.dtypes)),
                    drawn.choice(POSITIONS),
                    drawn.randrange(1000),
                )
            )
    return tuple(cases) if size == "long" else tuple(cases[:: len(PLACES) + 1])


def _fits(loop: str, operation: Operation) -> bool:
    # a checkpoint that runs again, and autocast, need a format that they work in
    return loop != "autocast" or "float32" in operation.dtypes
