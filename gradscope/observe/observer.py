"""The observer: puts hooks, patches, clock and statistics together and writes what they see.

Nothing here may change the training or stop it: every callback runs behind ``_guard``, which times
it, and which switches the observer off for good at the first failure.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradscope.observe import patches, private
from gradscope.observe.cadence import Cadence, Plan
from gradscope.observe.clock import Clock, learning_rates
from gradscope.observe.gradients import gradient_rows, total_norm
from gradscope.observe.inventory import Inventory
from gradscope.observe.look import EarlyLook
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.origin import OriginSearch
from gradscope.observe.updates import UpdateWatch
from gradscope.observe.wire import Wire
from gradscope.recording.writer import Writer

_log = logging.getLogger("gradscope")


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """A callback behind the observer's guard."""

    @functools.wraps(method)
    def guarded(self: Observer, *args: Any, **kwargs: Any) -> Any:
        return self._guard(method)(self, *args, **kwargs)

    return guarded


class Observer:
    """Watches models train and writes a recording.

    Attributes:
        attached: whether it is watching.
        steps: optimizer steps seen so far.
        failure: why it stopped observing by itself, or None.
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
        """
        self._writer = writer
        self._given = [] if optimizer is None else _as_list(optimizer)
        self._clock = Clock(first_step)
        self._cadence = Cadence(every, activations_every, budget, first_step)
        self._inventory = Inventory(models, labels)
        self._modules = ModuleWatch(self._inventory.modules, self._guard, self._root_called)
        self._updates = UpdateWatch(exact=updates == "exact")
        self._wire = Wire()
        self._look = EarlyLook(self._inventory, self._modules, first_step + examine_steps)
        self._origin = OriginSearch(self._inventory, enabled=nonfinite != "off")
        self._on_alarm = on_alarm
        self._facts = {"command": command, "target": target, "first_step": first_step}
        self._limits: list[str] = []
        self._plan = Plan(False, False)
        self._gradients: np.ndarray[Any, Any] | None = None
        self._depth: dict[int, int] = {}
        self._true_losses: list[tuple[Tensor, float]] = []
        self._forward_seen = self._any_root_call = False
        self._manual = self._open_group = self._compiled_loop = False
        self._pid = os.getpid()
        self.attached = False
        self.steps = 0
        self.failure: str | None = None

    # ------------------------------------------------------------------ life

    def attach(self) -> None:
        """Begin to watch; a second time does nothing."""
        if self.attached or self.failure:
            return
        self.attached = True
        for optimizer in self._given:
            self._inventory.adopt(optimizer, self._clock.optimizers.ordinal(optimizer))
        self._refresh()
        for key, value in self._inventory.run_facts().items():
            self.fact(key, value)
        for key, value in self._facts.items():
            self.fact(key, value)
        self._writer.commit()
        patches.add(self)
        self._begin_step()

    def detach(self) -> None:
        """Stop watching and leave no hook, patch or attribute behind; idempotent."""
        if not self.attached:
            return
        if self._open_group and not self._inventory.has_optimizer and os.getpid() == self._pid:
            self._guard(self._close_step)(None, skipped=False)
        self.attached = False
        patches.remove(self)
        self._modules.detach()
        self._look.leave()
        if os.getpid() != self._pid:
            return
        self.fact("limits", self.limits)
        self.fact("optimizers", self._inventory.optimizer_facts())
        self._writer.commit()

    def fact(self, key: str, value: Any) -> None:
        """Write a fact about the run, see ``facts.RUN_KEYS``."""
        if key == "limits":
            self._limits = list(value)
        self._writer.set(key, value)

    @property
    def limits(self) -> list[str]:
        """Sentences about what could not be observed."""
        found = [*self._limits, *self._inventory.limits]
        if self.failure:
            found.append(self.failure)
        return list(dict.fromkeys(found))

    @contextlib.contextmanager
    def examining(self) -> Iterator[None]:
        """A region of the user's loop, the loss included, whose operations are looked at early on."""
        with self._look.region():
            yield

    def _guard(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(callback)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.failure or not self.attached:
                return None
            began = time.perf_counter()
            try:
                return callback(*args, **kwargs)
            except Exception as error:
                self._fail(error)
                return None
            finally:
                self._clock.open.own_seconds += time.perf_counter() - began

        return guarded

    def _fail(self, error: Exception) -> None:
        self.failure = (
            f"gradscope stopped observing at step {self._clock.step} because of its own failure: "
            f"{type(error).__name__}: {error}"
        )
        _log.error("%s", self.failure, exc_info=error)
        self._modules.active = False
        self._look.leave()

    # ------------------------------------------------------------------ structure

    def _refresh(self) -> None:
        modules, parameters, sources = self._inventory.refresh(self._clock.step)
        if not self._compiled_loop:
            for module, root in self._inventory.to_hook():
                self._modules.attach(module, root=root)
        self._writer.records("modules", modules)
        self._writer.records("parameters", parameters)
        self._writer.records("sources", sources)

    @_timed
    def compiling(self, target: Any) -> None:
        """See ``patches.Listener``; hooks would be traced into the compiled code."""
        if isinstance(target, nn.Module):
            for module in target.modules():
                self._modules.release(module)
            return
        # a compiled function may call any of the models
        self._compiled_loop = True
        self._modules.detach()
        self._inventory.limits.append(
            "compiled training step: parameters are recorded exactly, modules are not seen"
        )

    # ------------------------------------------------------------------ forward

    def _root_called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], begins: bool
    ) -> None:
        if not torch.is_grad_enabled() or private.current_graph_task_id() != -1:
            return
        if begins:
            self._any_root_call = self._forward_seen = True
            if "batch" not in self._facts:
                batch = self._inventory.batch_of(args, kwargs)
                if batch is not None:
                    self._facts["batch"] = batch
                    self.fact("batch", batch)
            self._origin.keep(module, args, kwargs)
            self._look.enter()
        else:
            self._look.exit()

    # ------------------------------------------------------------------ backward

    @_timed
    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``patches.Listener``."""
        if self._any_root_call and not self._forward_seen and not self._open_group:
            return
        if self._manual_group_over():
            self._close_step(None, skipped=False)
        value = self._loss_value(tensors)
        site = self._clock.backward(value, None)
        if self._plan.modules:
            self._writer.records(
                "losses", self._look.losses(tensors, value, site, self._clock.step)
            )
        self._writer.records("examined", self._look.graph(tensors, self._clock.step))
        if value is not None and not math.isfinite(value):
            self._alarm("loss-nonfinite", value, origin=self._origin.in_graph(tensors, site))
        elif value is not None:
            limit = self._wire.jumped("loss", value)
            if limit is not None:
                self._alarm("loss-jump", value, limit)

    @_timed
    def backward_end(self) -> None:
        """See ``patches.Listener``."""
        if not self._clock.backwards():
            return
        self._open_group = True
        if self._manual and self._plan.parameters:
            # without an optimizer nobody says when the gradient is used: it is complete here
            self._read_gradients(None)

    @_timed
    def autograd_grad(self) -> None:
        """See ``patches.Listener``."""
        self._clock.event("autograd-grad")

    def _loss_value(self, tensors: Sequence[Tensor]) -> float | None:
        if len(tensors) != 1 or tensors[0].numel() != 1:
            return None
        loss = tensors[0].detach()
        for scaled, true in self._true_losses:
            if scaled is tensors[0]:
                return true
        return float(loss.real if loss.is_complex() else loss)

    def _manual_group_over(self) -> bool:
        """Whether a hand-written update has ended the group of backward calls before this one."""
        if not self._open_group or self._inventory.has_optimizer:
            return False
        parameters = self._inventory.trainable()
        cleared = all(p.grad is None or not bool(p.grad.any()) for _, p in parameters[:4])
        self._manual = self._manual or cleared
        return cleared

    # ------------------------------------------------------------------ scale and clip

    @_timed
    def clip(self, parameters: Any, max_norm: float, total_norm: Tensor) -> None:
        """See ``patches.Listener``."""
        if not self._inventory.mine(parameters):
            return
        total = float(total_norm)
        self._clock.clip(max_norm, total)
        if not math.isfinite(total):
            # after the scaling one NaN has spoilt every gradient: look now
            self._confirm_gradients()
        else:
            limit = self._wire.jumped("norm", total)
            if limit is not None:
                self._alarm("norm-jump", total, limit)

    @_timed
    def clip_value(self, parameters: Any, limit: float) -> None:
        """See ``patches.Listener``."""
        self._clock.event("clip-value", limit=limit)

    @_timed
    def scaled(self, loss: Any, scaled: Any) -> None:
        """See ``patches.Listener``."""
        if isinstance(loss, Tensor) and isinstance(scaled, Tensor) and loss.numel() == 1:
            self._true_losses = [(scaled, float(loss.detach()))]

    @_timed
    def unscaled(self, scaler: Any, optimizer: Any) -> None:
        """See ``patches.Listener``."""
        scale = float(scaler.get_scale())
        self._clock.open.loss_scale = scale
        self._clock.event("unscale", value=scale)

    @_timed
    def scaler_step(self, optimizer: Any, stepped: bool) -> None:
        """See ``patches.Listener``."""
        if not stepped and self._concerns(optimizer):
            self._clock.event("skip", optimizer=self._clock.optimizers.ordinal(optimizer))
            self._close_step(optimizer, skipped=True)

    @_timed
    def zero_grad(self, owner: Any) -> None:
        """See ``patches.Listener``."""
        if isinstance(owner, nn.Module):
            if self._inventory.modules.get(owner) is not None:
                self._clock.event("zero-grad")
        elif self._inventory.holds(owner):
            self._clock.event("zero-grad", optimizer=self._clock.optimizers.ordinal(owner))

    # ------------------------------------------------------------------ step

    @_timed
    def step_begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """See ``patches.Listener``."""
        # a subclass that overrides step() and calls super() fires twice: the outermost counts
        depth = self._depth[id(optimizer)] = self._depth.get(id(optimizer), 0) + 1
        if depth > 1 or not self._concerns(optimizer):
            return None
        ordinal = self._clock.optimizers.ordinal(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        self._clock.event(
            "step", optimizer=ordinal, detail={"closure": True} if callable(closure) else None
        )
        if not callable(closure):
            self._before_update(optimizer)
            return None
        wrapped = self._after_closure(closure, optimizer)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _after_closure(self, closure: Callable[[], Any], optimizer: Any) -> Callable[[], Any]:
        """The user's closure; when it first returns, the gradients of this step are there."""
        pending = [True]

        @functools.wraps(closure)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            if pending:
                pending.clear()
                self._guard(self._before_update)(optimizer)
            return result

        return wrapped

    def _before_update(self, optimizer: Any) -> None:
        held = self._inventory.held_by(optimizer)
        if self._plan.parameters:
            self._read_gradients(optimizer)
            self._updates.before(held, getattr(optimizer, "grad_scale", None))
        elif not self._wire.gradients_finite([p for _, p in held]):
            self._confirm_gradients()

    @_timed
    def step_end(self, optimizer: Any) -> None:
        """See ``patches.Listener``."""
        depth = self._depth.get(id(optimizer), 1) - 1
        if depth:
            self._depth[id(optimizer)] = depth
            return
        self._depth.pop(id(optimizer), None)
        if not self._concerns(optimizer):
            return
        if self._plan.parameters:
            updates, sketches = self._updates.after(self._clock.step)
            self._writer.rows("updates", updates)
            self._writer.rows("sketches", sketches)
        found_inf = getattr(optimizer, "found_inf", None)
        self._close_step(optimizer, skipped=found_inf is not None and bool(found_inf))

    def _concerns(self, optimizer: Any) -> bool:
        """Whether a step of this optimizer is a step of ours; learns its parameters on the way."""
        ordinal = self._clock.optimizers.ordinal(optimizer)
        if self._inventory.holds(optimizer):
            if self._inventory.adopt(optimizer, ordinal):
                self._refresh()
            return True
        # it holds none of the watched parameters but steps right after their forward: it holds
        # copies, or objects that were replaced
        if self._forward_seen and self._clock.backwards() and not self._inventory.has_optimizer:
            self._inventory.adopt(optimizer, ordinal)
            self._refresh()
            return True
        return False

    # ------------------------------------------------------------------ reading and writing

    def _read_gradients(self, optimizer: Any) -> None:
        parameters = self._inventory.to_read(optimizer)
        scale = getattr(optimizer, "grad_scale", None)
        counted = self._wire_fired
        self._gradients = gradient_rows(self._clock.step, parameters, scale, count=counted)
        bad = self._gradients["nonfinite"].astype(bool)
        if bad.any() and not _skips(optimizer):
            if not counted:
                self._gradients = gradient_rows(self._clock.step, parameters, scale, count=True)
            worst = int(self._gradients["parameter"][bad][0])
            self._gradient_alarm(worst)

    def _confirm_gradients(self) -> None:
        """The wire fired: read every gradient, so that an overflow of the wire itself is no alarm."""
        parameters = self._inventory.to_read(None)
        rows = gradient_rows(self._clock.step, parameters, None, count=True)
        bad = rows["nonfinite"].astype(bool)
        if bad.any() and self._clock.open.loss_scale is None:
            self._wire_fired = True
            self._gradients = rows
            self._gradient_alarm(int(rows["parameter"][bad][0]))

    def _gradient_alarm(self, parameter: int) -> None:
        if not self._gradient_alarmed:
            self._gradient_alarmed = True
            self._alarm(
                "gradient-nonfinite", math.nan, parameter=parameter, origin=self._origin.replay()
            )

    def _alarm(
        self,
        kind: str,
        value: float,
        limit: float | None = None,
        *,
        parameter: int | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        if not self._wire.may_report(kind):
            return
        alarm = {
            "step": self._clock.step,
            "kind": kind,
            "value": value,
            "limit": limit,
            "parameter": parameter,
            "module": origin["module"] if origin else None,
            "origin": origin,
        }
        self._writer.records("alarms", [alarm])
        self._cadence.burst(self._clock.step)
        if self._on_alarm is not None:
            self._on_alarm(alarm)

    def _close_step(self, optimizer: Any, *, skipped: bool) -> None:
        step, plan = self._clock.step, self._plan
        norm = None
        if self._gradients is not None:
            self._writer.rows("gradients", self._gradients)
            held = {identity for identity, _ in self._inventory.held_by(optimizer)}
            norm = total_norm(self._gradients, held)
        if plan.modules:
            activations, units, blob = self._modules.take(step, self._look.consumers)
            self._writer.rows("activations", activations)
            self._writer.rows("units", units, blob)
            modules, parameters = self._look.structure(step)
            self._writer.records("modules", modules)
            self._writer.records("parameters", parameters)
        ordinal = -1 if optimizer is None else self._clock.optimizers.ordinal(optimizer)
        record, events, length = self._clock.close(
            optimizer=ordinal,
            lr=learning_rates(optimizer),
            norm=norm,
            skipped=skipped,
            parameters_sampled=self._gradients is not None,
            modules_sampled=plan.modules,
        )
        self._writer.records("steps", [record])
        self._writer.records("events", events)
        self._writer.commit()
        self.steps += 1
        self._cadence.spent(plan, record["own_seconds"], length)
        self._begin_step()

    def _begin_step(self) -> None:
        self._plan = self._cadence.plan(self._clock.step)
        self._gradients = None
        self._wire_fired = self._gradient_alarmed = False
        self._forward_seen = self._open_group = False
        self._true_losses = []
        self._modules.clear()
        self._modules.active = self._plan.modules
        self._look.begin(self._clock.step, active=self._plan.modules)
        self._origin.begin()


def _as_list(thing: Any) -> list[Any]:
    return list(thing) if isinstance(thing, (list, tuple)) else [thing]


def _skips(optimizer: Any) -> bool:
    """Whether a fused optimizer was told by its loss scaler to skip this step."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
