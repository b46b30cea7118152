"""What the armed trip-wire costs on a step without an alarm, and what an alarm's search takes.

The direct cost is the processor time inside the wire's own functions on steps of which nothing is
recorded, over the processor time of the bare step; both are measured in turn in one process, so
that a busy machine slows both.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gradscope
from benchmarks.overhead.workloads import WORKLOADS, Workload
from gradscope.observe.birth.kept_call import KeptCall
from gradscope.observe.birth.loss_code import LossCode
from gradscope.observe.birth.loss_part import LossPart
from gradscope.observe.birth.origin import OriginSearch
from gradscope.observe.birth.ring import Ring
from gradscope.observe.recorder import Recorder

NEVER = 1_000_000_000
"""``every``: after step 0 nothing is recorded but the loss and the loop's calls."""
_WIRE: tuple[tuple[type, str], ...] = (
    (OriginSearch, "begin"), (OriginSearch, "keep"), (OriginSearch, "keep_output"),
    (OriginSearch, "loss_ends"), (OriginSearch, "backward_begin"), (OriginSearch, "backward_end"),
    (Recorder, "_glance"), (Recorder, "loss"), (Ring, "close"), (LossCode, "_note"),
    (LossPart, "_keep"), (KeptCall, "_arrived"),
)  # fmt: skip
"""All that runs for the search for an origin on a healthy step."""


@dataclass(frozen=True)
class Cost:
    """Medians over turns.

    Attributes:
        workload: its name.
        step: milliseconds of the bare step.
        wire: milliseconds of the wire in a step.
        share: median of ``wire / step`` within a turn, in percent.
        spread: half the range of the middle half of the shares, in percent.
    """

    workload: str
    step: float
    wire: float
    share: float
    spread: float


def costs(turns: int, steps: int) -> list[Cost]:
    """Of W1 to W4; ``steps`` of each kind in a turn."""
    return [_cost(workload, turns, steps) for workload in WORKLOADS[:4]]


def _cost(workload: Workload, turns: int, steps: int) -> Cost:
    torch.manual_seed(0)
    bare, watched = _loop(workload), _loop(workload)
    with tempfile.TemporaryDirectory() as folder, _timed() as spent:
        scope = gradscope.watch(watched.model, run_dir=Path(folder) / "run", every=NEVER)  # type: ignore[attr-defined]
        with scope:
            _time(bare, 3)
            _time(watched, 6)
            found = []
            for _ in range(turns):
                own = _time(bare, steps)
                before = spent[0]
                _time(watched, steps)
                found.append((own / steps, (spent[0] - before) / steps))
    shares = sorted(100 * wire / step for step, wire in found)
    quarter = len(shares) // 4
    return Cost(
        workload.name,
        1000 * statistics.median(step for step, _ in found),
        1000 * statistics.median(wire for _, wire in found),
        statistics.median(shares),
        (shares[-1 - quarter] - shares[quarter]) / 2,
    )


def _loop(workload: Workload) -> Callable[[], None]:
    model = workload.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=workload.rate)
    inputs, targets = workload.batch()

    def step() -> None:
        optimizer.zero_grad()
        loss = workload.loss(model, inputs, targets)
        loss.backward()
        optimizer.step()

    step.model = model  # type: ignore[attr-defined]
    return step


def _time(step: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        step()
    return time.process_time() - began


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    """Adds up the processor time inside the wire's functions, each outermost call once."""
    spent, depth = [0.0], [0]

    def around(method: Any) -> Any:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if depth[0]:
                return method(*args, **kwargs)
            depth[0] += 1
            began = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - began
                depth[0] -= 1

        return timed

    kept = [(kind, name, kind.__dict__[name]) for kind, name in _WIRE]
    for kind, name, method in kept:
        setattr(kind, name, around(method))
    try:
        yield spent
    finally:
        for kind, name, method in kept:
            setattr(kind, name, method)
