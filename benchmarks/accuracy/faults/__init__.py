"""All faults and look-alikes."""

from __future__ import annotations

from benchmarks.accuracy.cases import Fault
from benchmarks.accuracy.faults import graph, inputs, loop, loss, numerics, updates, weights
from benchmarks.accuracy.faults.lookalikes import LOOKALIKES
from benchmarks.accuracy.faults.loop import LOOPS_OF

FAULTS: tuple[Fault, ...] = (
    *weights.FAULTS,
    *graph.FAULTS,
    *updates.FAULTS,
    *loop.FAULTS,
    *loss.FAULTS,
    *inputs.FAULTS,
    *numerics.FAULTS,
)

BY_NAME = {fault.name: fault for fault in (*FAULTS, *LOOKALIKES)}

__all__ = ["BY_NAME", "FAULTS", "LOOKALIKES", "LOOPS_OF"]
