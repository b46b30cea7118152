"""What watches the training in a script of somebody else: discovery, observer, writer."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import util
from typing import Any

from torch import Tensor, distributed

from gradscope.observe.model.discovery import Discovery, Found
from gradscope.observe.observer import Observer
from gradscope.recording.writer import Writer
from gradscope.running.failures import in_one_line
from gradscope.session import ending
from gradscope.session.launching import launched_as
from gradscope.session.plan import Plan


class ScriptWatch:
    """Watches whatever this process trains; its recording begins when the first root is found."""

    def __init__(self, plan: Plan, on_limit: Callable[[], None] = lambda: None) -> None:
        """Make one.

        Args:
            plan: see ``Plan``.
            on_limit: called at the end of step ``plan.max_steps``.
        """
        self._plan = plan
        self._on_limit = on_limit
        self._pid = os.getpid()
        # what it is not told of it leaves to the methods of the protocol, which do nothing
        self._discovery = Discovery(  # type: ignore[abstract]
            self._found, functools.partial(carry, plan)
        )
        self._observer: Observer | None = None
        self._writer: Writer | None = None
        self._ended = False

    @property
    def steps(self) -> int:
        """Optimizer steps seen in this process."""
        return self._observer.steps if self._observer is not None else 0

    def begin(self) -> None:
        """Begin to watch."""
        self._discovery.begin()

    def when_outside(self, callback: Callable[[], None]) -> None:
        """Run a signal handler's ``callback`` as soon as none of gradscope's own code runs."""
        if self._discovery.guard.inside or self._observer is None:
            self._discovery.guard.when_outside(callback)
        else:
            self._observer.when_outside(callback)

    def end(self, **facts: Any) -> None:
        """Stop watching and finish the recording, if there is one; idempotent.

        Args:
            facts: facts about the run that are known now, see ``facts.RUN_KEYS``.
        """
        if self._ended:
            return
        self._ended = True
        self._discovery.end()
        if self._observer is None or self._writer is None:
            return
        self._observer.fact("limits", self._limits())
        for key, value in facts.items():
            self._observer.fact(key, value)
        self._observer.detach()
        self._writer.close()

    def nothing(self) -> str:
        """Why there is no training in the recording, as a sentence; "" if there is one."""
        if self.steps:
            return ""
        calls, gradients = self._discovery.backward_calls, self._discovery.gradient_calls
        if self._discovery.guard.failure:
            return self._discovery.guard.failure
        if gradients and not calls:
            return (
                f"gradients were computed by {gradients} call{_s(gradients)} of torch.autograd.grad"
                " or torch.func, but no backward() and no optimizer step was seen: such a loop is "
                "not observed"
            )
        if calls:
            return (
                f"{calls} call{_s(calls)} of backward() but no optimizer step was seen, and no "
                "parameter was seen to move: nothing was trained"
            )
        return "nothing was trained: no optimizer step and no backward() was seen"

    def trained(self) -> list[Tensor]:
        """The parameters that are known to be trained."""
        return [] if self._observer is None else self._observer.trained

    def origin_record(self, found: Any) -> dict[str, Any] | None:
        """An origin as a recording holds it."""
        return None if self._observer is None else self._observer.origin_record(found)

    def add_alarm(self, record: dict[str, Any]) -> None:
        """Write an alarm that was found after the training."""
        if self._writer is not None:
            self._writer.records("alarms", [record])
            self._writer.commit()

    def _limits(self) -> list[str]:
        failure = self._discovery.guard.failure
        nothing = self.nothing()
        found = [*self._discovery.limits, *([failure] if failure else [])]
        return found if not nothing or nothing in found else [*found, nothing]

    def _found(self, found: Found) -> Observer:
        if self._observer is not None:
            self._observer.add(
                found.models, found.labels, loose=found.loose, optimizers=found.optimizers
            )
            return self._observer
        plan = self._plan
        if os.getpid() != self._pid:
            # a forked process ends without what the parent does at its end
            util.Finalize(None, self.end, exitpriority=10)
        self._writer = Writer(plan.folder, rank=rank(), joins=True)
        self._observer = Observer(
            [], writer=self._writer, every=plan.every, budget=plan.budget,
            activations_every=plan.activations_every, command="run", target=plan.target,
            on_step=self._stepped, nonfinite=plan.nonfinite,
        )  # fmt: skip
        self._observer.fact("settings", plan.settings)
        self._observer.attach()
        self._observer.add(
            found.models, found.labels, loose=found.loose, optimizers=found.optimizers
        )
        for module in found.compiled:
            self._observer.listener.compiling(module)
        return self._observer

    def _stepped(self, steps: int) -> None:
        if self._plan.max_steps is not None and steps >= self._plan.max_steps:
            self._on_limit()


def rank() -> int:
    """Rank of this process: of its group, else of its launcher, else 0."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return launched_as()[0]


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def carry(plan: Plan, process: Any) -> None:
    """Have a process that starts as a new Python watch what it trains, too.

    A forked one does so by itself. A DataLoader's worker trains nothing, and one whose class has a
    ``run`` of its own is left alone.

    Args:
        plan: of the run.
        process: of ``multiprocessing``, not started yet.
    """
    target = getattr(process, "_target", None)
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method()
    worker = getattr(target, "__module__", "").startswith("torch.utils.data")
    if method != "fork" and callable(target) and not worker:
        process._target = Carried(target, plan)


@dataclass(frozen=True)
class Carried:
    """The function of a process, watched there; goes through pickle."""

    target: Callable[..., Any]
    plan: Plan

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it and finish the recording, however it ends."""
        watch = ScriptWatch(self.plan, ending.stop_here)
        watch.begin()
        facts: dict[str, Any] = {}
        try:
            return self.target(*args, **kwargs)
        except Exception as error:
            facts["failed"] = f"the process failed: {in_one_line(error)} (step {watch.steps})"
            raise
        finally:
            watch.end(**facts)
