"""The observer: puts hooks, patches, clock and statistics together and writes what they see."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gradscope.observe import patches, private
from gradscope.observe.autograd.look import EarlyLook
from gradscope.observe.birth.origin import OriginSearch
from gradscope.observe.cadence import Cadence
from gradscope.observe.clock import Clock
from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.model.compiled import modules_called
from gradscope.observe.model.construction import built_at
from gradscope.observe.modules import BEGINS, ModuleWatch
from gradscope.observe.nonfinite import Origin
from gradscope.observe.reading.containers import batch_of
from gradscope.observe.recorder import Recorder
from gradscope.observe.steps.loop import LoopListener
from gradscope.recording.writer import Writer

_ATTACHED: weakref.WeakSet[Observer] = weakref.WeakSet()


class Observer:
    """Watches models train and writes a recording.

    Nothing here changes the training or stops it: every callback runs behind a guard, which times
    it and switches the observer off for good at the first failure.

    Attributes:
        attached: whether it is watching.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        labels: Sequence[str | None] = (),
        writer: Writer,
        optimizer: Any = None,
        every: int | None = None,
        budget: float | None = 0.03,
        activations_every: int | None = None,
        updates: str = "sampled",
        nonfinite: str = "auto",
        first_step: int = 0,
        on_alarm: Callable[[dict[str, Any]], None] | None = None,
        command: str = "watch",
        target: str = "",
        examine_steps: int = 3,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """Make an observer; nothing is touched before ``attach``.

        Args:
            models: the root modules.
            labels: name of each root's variable in the user's code.
            writer: where to write.
            optimizer: the optimizer or optimizers, where known; others are found when they step.
            every: record parameters on every k-th step and modules on every 10·k-th; None lets
                the budget decide.
            budget: gradscope's share of the training's time; None records every step.
            activations_every: overrides the interval for modules.
            updates: "sampled", or "exact" to compare all elements.
            nonfinite: "auto", "sync", or "off" to keep nothing for finding an origin.
            first_step: number of the first step.
            on_alarm: called with each alarm's record.
            command: for the run's facts.
            target: for the run's facts.
            examine_steps: early steps whose operations are looked at.
            on_step: called at the end of each step with the number of steps seen.
        """
        self.attached = False
        self._pid = os.getpid()
        self._writer = writer
        self._guard = Guard()
        self._clock = Clock(first_step)
        self._guard.step = lambda: self._clock.step
        self._inventory = Inventory(models, labels)
        self._modules = ModuleWatch(self._inventory.modules, self._guard.wrap, self._root_called)
        self._look = EarlyLook(
            self._inventory,
            self._modules,
            first_step + examine_steps,
            ours=lambda: self._guard.inside,
        )
        self._origin = OriginSearch(self._inventory, self._guard, enabled=nonfinite != "off")
        self._recorder = Recorder(
            writer=writer,
            guard=self._guard,
            clock=self._clock,
            cadence=Cadence(every, activations_every, budget, first_step, ranks=_ranks()),
            inventory=self._inventory,
            modules=self._modules,
            look=self._look,
            origin=self._origin,
            exact_updates=updates == "exact",
            on_alarm=on_alarm,
        )
        self._loop = LoopListener(
            guard=self._guard,
            clock=self._clock,
            inventory=self._inventory,
            modules=self._modules,
            recorder=self._recorder,
            look=self._look,
            origin=self._origin,
            adopt=self._adopt,
            on_compile=self._compiling,
            on_compiled=self._made_compiled,
        )
        if on_step is not None:
            self._loop.on_close = lambda: on_step(self._recorder.steps)
        self._guard.on_failure = self._unhook
        self._given = optimizer
        self._facts = {"command": command, "target": target, "first_step": first_step}
        self._limits: list[str] = []
        self._told: dict[str, Any] = {}
        self._forked = False
        self._compiled_in: weakref.WeakValueDictionary[int, nn.Module] = (
            weakref.WeakValueDictionary()
        )
        """Modules that compiled functions call."""
        self._forward_in = 0
        """The thread whose forward is looked at, 0 for none."""

    @property
    def optimizers(self) -> list[Any]:
        """Living optimizers that hold a watched parameter, in the order in which they were met."""
        return [o for o in self._clock.optimizers.living() if self._inventory.holds(o)]

    @property
    def steps(self) -> int:
        """Optimizer steps seen so far."""
        return self._recorder.steps

    @property
    def trained(self) -> list[torch.Tensor]:
        """The watched parameters that require grad."""
        return [parameter for _, parameter in self._inventory.trainable()]

    def origin_record(self, found: Origin | None) -> dict[str, Any] | None:
        """An origin as column ``origin`` of table ``alarms`` holds it."""
        return self._origin.record(found, None)

    def replay(self, step_fn: Callable[[], Any]) -> dict[str, Any] | None:
        """Origin of the first NaN or Inf in a step that the caller runs; see ``Scope.replay``."""
        found, record = self._origin.of_step(step_fn, self._clock.optimizers.living())
        if found.phase is None or record is None:
            return None
        if self.attached:
            self._recorder.explained(record)
        return record

    @property
    def failure(self) -> str | None:
        """Why it stopped observing by itself, or None."""
        return self._guard.failure

    # ------------------------------------------------------------------ life

    def attach(self) -> None:
        """Begin to watch; a second time does nothing."""
        if self.attached:
            return
        self.attached = self._guard.open = True
        try:
            self._begin()
        except BaseException:
            self.attached = self._guard.open = False
            self._unhook()
            raise
        patches.add(self._loop)
        _ATTACHED.add(self)

    def add(
        self,
        models: Sequence[nn.Module] = (),
        labels: Sequence[str | None] = (),
        *,
        loose: Mapping[str, torch.Tensor] | None = None,
        optimizers: Sequence[Any] = (),
    ) -> None:
        """Watch further roots, found while it watches; names and ids of what is known stay.

        Args:
            models: the roots.
            labels: name of each root's variable in the user's code.
            loose: tensors that stand in no module, by the names of their variables.
            optimizers: optimizers that hold parameters of them.
        """
        self._guard.call(self._add, models, labels, loose or {}, optimizers)

    def _add(
        self,
        models: Sequence[nn.Module],
        labels: Sequence[str | None],
        loose: Mapping[str, torch.Tensor],
        optimizers: Sequence[Any],
    ) -> None:
        self._inventory.add(models, labels)
        self._inventory.add_loose(loose)
        for optimizer in optimizers:
            self._learn(optimizer)
        self._refresh()
        facts = self._inventory.run_facts()
        for key in ("model", "device", "dtype", "optimizers"):
            self.fact(key, facts[key])

    @property
    def listener(self) -> LoopListener:
        """What is told of the calls of the training loop."""
        return self._loop

    def begun(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell of a forward that had begun when its root was found."""
        self._guard.call(self._modules.begun, module, args, kwargs)

    def when_outside(self, callback: Callable[[], None]) -> None:
        """Run a signal handler's ``callback``, see ``Guard.when_outside``."""
        self._guard.when_outside(callback)

    def in_forked_process(self) -> None:
        """This process was forked: what it records goes into a file of its own, told anew."""
        self._forked = True
        self._inventory.renew()

    def _begin(self) -> None:
        given = self._given if isinstance(self._given, (list, tuple)) else [self._given]
        self._given = None  # no optimizer, and with it no parameter, is held
        for optimizer in given:
            if optimizer is not None:
                self._learn(optimizer)
        compiled = private.compiled_functions()
        if compiled:
            self._inventory.walk()  # which of their modules are watched
        for function in compiled:
            self._compiling(private.compile_target(function))
        self._refresh()
        for key, value in (self._inventory.run_facts() | self._facts).items():
            self.fact(key, value)
        self._recorder.begin()
        self._writer.commit()

    def detach(self) -> None:
        """Stop watching and leave no hook, patch or attribute behind; idempotent."""
        if not self.attached:
            return
        self.attached = False
        patches.remove(self._loop)
        own = os.getpid() == self._pid
        if own:
            self._guard.call(self._loop.finish)
            if self.steps and self._inventory.roots and not self._loop.any_forward:
                self._inventory.modules_unseen()
        self._unhook()
        if own:
            self.fact("limits", self.limits)
            self.fact("optimizers", self._inventory.optimizer_facts())
            self._writer.commit()
        self._guard.open = False

    def _unhook(self) -> None:
        """Take off every hook and mode, and keep nothing of the user's."""
        self._modules.detach()
        self._look.leave()
        self._origin.begin()

    def fact(self, key: str, value: Any) -> None:
        """Write a fact about the run, see ``facts.RUN_KEYS``."""
        if key == "limits":
            self._limits = list(value)
        self._told[key] = value
        self._writer.set(key, value)

    @property
    def limits(self) -> list[str]:
        """Sentences about what could not be observed."""
        failure = [self.failure] if self.failure else []
        return list(dict.fromkeys([*self._limits, *self._inventory.limits, *failure]))

    @contextlib.contextmanager
    def examining(self, step_fn: Callable[[], Any]) -> Iterator[None]:
        """A region of the loop around forward and loss whose operations are looked at early on.

        Args:
            step_fn: runs this very forward, loss and backward once more; called only in the search
                for the origin of a NaN or Inf, before the parameters are updated.
        """
        self._guard.call(self._origin.keep_step, step_fn)
        self._guard.call(self._look.enter, *self._inventory.roots)
        try:
            yield
        finally:
            self._guard.call(self._look.exit)

    # ------------------------------------------------------------------ structure

    def _adopt(self, optimizer: Any) -> None:
        if self._learn(optimizer):
            self._refresh()

    def _learn(self, optimizer: Any) -> bool:
        """Learn of an optimizer; whether it, or what it holds, is new."""
        ordinal = self._clock.optimizers.ordinal(optimizer)
        if not self._inventory.adopt(optimizer, ordinal):
            return False
        if self._forked:
            self._forked = False
            for key, value in self._told.items():
                self._writer.set(key, value)
        built = built_at(optimizer)
        if built is not None:
            self._clock.event("optimizer-built", optimizer=ordinal, site=built[:2])
        return True

    def _refresh(self) -> None:
        modules, parameters, sources = self._inventory.refresh(self._clock.step)
        self._modules.attach_only(
            [found for found in self._inventory.to_hook() if id(found[2]) not in self._compiled_in]
        )
        self._writer.records("modules", modules)
        self._writer.records("parameters", parameters)
        self._writer.records("sources", sources)

    def _compiling(self, target: Any) -> None:
        """A hook would be traced into the compiled code: take it off before.

        Hooks of modules that come to a compiled function as an argument stay on, all the time:
        they do nothing there, and taking them off would make it compile anew.
        """
        if target is None:
            return  # torch.compile used as a decorator: it is told again, with the function
        inside = modules_called(target)
        for module in inside:
            if self._inventory.modules.get(module) is not None:
                self._modules.release(module)
                if not isinstance(target, nn.Module):
                    self._compiled_in[id(module)] = module
        self._inventory.modules_compiled(inside)
        if not isinstance(target, nn.Module):
            self._modules.pin()

    def _made_compiled(self, target: Any, result: Any) -> None:
        if isinstance(result, nn.Module) and self._inventory.compiled_by(result):
            self._refresh()

    def _root_called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if private.current_graph_task_id() != -1:
            return  # a checkpointed block runs again
        here = threading.get_ident()
        if self._forward_in == here:
            # it ends, or was ended before by a KeyboardInterrupt, which no hook is told of
            self._forward_in = 0
            self._look.exit()
        if output is not BEGINS:
            if torch.is_grad_enabled():
                self._origin.keep_output(module, output)
            return
        if not torch.is_grad_enabled():
            return
        self._loop.forward()
        if self._recorder.plan.modules and self._inventory.structure_changed():
            self._refresh()
        if "batch" not in self._facts:
            self._facts["batch"] = batch_of(args, kwargs)
            self.fact("batch", self._facts["batch"])
            self.fact("amp", self._inventory.autocast())
        self._origin.keep(module, args, kwargs, sampled=self._recorder.plan.modules)
        records = self._look.inputs(module, (args, kwargs), self._clock.step)
        self._writer.records("features", records)
        if not self._forward_in:
            self._forward_in = here
            self._look.enter(module)


def _ranks() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _forked() -> None:
    for observer in list(_ATTACHED):
        observer.in_forked_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
