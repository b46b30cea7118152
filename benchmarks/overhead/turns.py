"""Loops that take turns: each in a process of its own, one running while the others wait.

One process for each tool keeps what a tool patches or leaves behind away from the bare loop; turns
of some tenths of a second make both see the same machine. The bare loop is measured twice, as two
tools: how far these two differ is what the arrangement itself adds.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.overhead.tools import Tool
from benchmarks.overhead.workloads import WORKLOADS

WARM_UP = 8
"""Steps before anything counts: gradscope looks at the first 5 in full by design."""


@dataclass(frozen=True)
class Turn:
    """What some steps of one loop took, in seconds a step."""

    cpu: float
    wall: float


class Loop:
    """A training in another process that runs when it is told to."""

    def __init__(self, workload: int, tool: Tool) -> None:
        self.tool = tool
        self.turns: list[Turn] = []
        self.memory = 0
        """Largest resident memory in bytes, known after ``end``."""
        os.environ.update(tool.environment)
        try:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(workload, tool.name, theirs))
            self._process.start()
        finally:
            for name, _ in tool.environment:
                os.environ.pop(name, None)
        self._ask(WARM_UP)

    def run(self, steps: int) -> Turn:
        """Train for some steps while nobody else does."""
        self.turns.append(self._ask(steps))
        return self.turns[-1]

    def end(self) -> None:
        """Let it detach and leave."""
        with contextlib.suppress(OSError, EOFError):
            self._pipe.send(0)
            answer = self._pipe.recv()
            self.memory = answer if isinstance(answer, int) else 0
        self._process.join()

    def _ask(self, steps: int) -> Turn:
        self._pipe.send(steps)
        answer = self._pipe.recv()
        if isinstance(answer, tuple):
            cpu, wall = answer
            return Turn(cpu / steps, wall / steps)
        raise RuntimeError(f"{self.tool.name}: {answer}")


def _serve(workload: int, tool_name: str, pipe: Connection) -> None:
    import torch

    from benchmarks.overhead import tools

    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = next(t for t in (tools.BARE, *tools.OWN, *tools.PEERS) if t.name == tool_name)
    work = WORKLOADS[workload]
    model = work.model()
    inputs, targets = work.batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=work.rate)
    step = 0

    def train(steps: int, each: Any) -> tuple[float, float]:
        nonlocal step
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            work.loss(model, inputs, targets).backward()
            each(step)
            optimizer.step()
            step += 1
        return time.process_time() - cpu, time.perf_counter() - wall

    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # some peers print on every step, which is not what is measured
            contextlib.redirect_stdout(io.StringIO()),
            chosen.attach(model, optimizer, Path(folder)) as each,
        ):
            while steps := pipe.recv():
                pipe.send(train(steps, each))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
