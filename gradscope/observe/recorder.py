"""One step at a time: what is read in it, which alarms it raises, what is written at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradscope.observe.cadence import Cadence, Plan
from gradscope.observe.clock import Clock, learning_rates
from gradscope.observe.gradients import gradient_rows, total_norm
from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.look import EarlyLook
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.origin import OriginSearch
from gradscope.observe.updates import UpdateWatch
from gradscope.observe.wire import Wire
from gradscope.recording.writer import Writer

_log = logging.getLogger("gradscope")
Record = dict[str, Any]


class Recorder:
    """Reads and writes steps.

    Attributes:
        plan: what is recorded of the open step.
        steps: steps closed so far.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        guard: Guard,
        clock: Clock,
        cadence: Cadence,
        inventory: Inventory,
        modules: ModuleWatch,
        look: EarlyLook,
        origin: OriginSearch,
        exact_updates: bool,
        on_alarm: Callable[[Record], None] | None,
    ) -> None:
        self.writer = writer
        self.plan = Plan(False, False)
        self.steps = 0
        self._guard = guard
        self._clock = clock
        self._cadence = cadence
        self._inventory = inventory
        self._modules = modules
        self._look = look
        self._origin = origin
        self._updates = UpdateWatch(exact=exact_updates)
        self._wire = Wire()
        self._on_alarm = on_alarm
        self._gradients: npt.NDArray[np.void] | None = None
        self._alarmed = False

    def begin(self) -> None:
        """Open the next step."""
        step = self._clock.step
        self.plan = self._cadence.plan(step)
        self._gradients = None
        self._alarmed = False
        self._modules.clear()
        self._modules.activate(self.plan.modules)
        self._look.begin(step, active=self.plan.modules)
        self._origin.begin()

    # ------------------------------------------------------------------ around the update

    def before_update(self, optimizer: Any) -> None:
        """The gradients of this step are complete and the parameters have not moved yet."""
        if self.plan.parameters:
            self.read_gradients(optimizer)
            scale = getattr(optimizer, "grad_scale", None)
            self._updates.before(self._inventory.held_by(optimizer), scale)
            return
        held = [parameter for _, parameter in self._inventory.held_by(optimizer)]
        if not self._wire.gradients_finite(held):
            self.confirm_gradients()

    def after_update(self) -> None:
        """The parameters have moved."""
        if self.plan.parameters:
            updates, sketches = self._updates.after(self._clock.step)
            self.writer.rows("updates", updates)
            self.writer.rows("sketches", sketches)

    def read_gradients(self, optimizer: Any) -> None:
        """Statistics of every gradient of the step, unless an alarm has already read them."""
        if self._alarmed:
            return
        parameters = self._inventory.to_read(optimizer)
        scale = getattr(optimizer, "grad_scale", None)
        rows = gradient_rows(self._clock.step, parameters, scale, count=False)
        if rows["nonfinite"].any() and not told_to_skip(optimizer):
            rows = gradient_rows(self._clock.step, parameters, scale, count=True)
            self._gradient_alarm(rows)
        self._gradients = rows

    def confirm_gradients(self) -> None:
        """The wire or a clip saw something: read every gradient; an overflow is no alarm."""
        if self._clock.open.loss_scale is not None:
            return  # a loss scaler meets overflows by design and skips the step
        parameters = self._inventory.to_read(None)
        rows = gradient_rows(self._clock.step, parameters, None, count=True)
        if rows["nonfinite"].any():
            self._gradients = rows
            self._gradient_alarm(rows)

    def _gradient_alarm(self, rows: npt.NDArray[np.void]) -> None:
        if self._alarmed:
            return
        self._alarmed = True
        first = int(rows["parameter"][rows["nonfinite"] != 0][0])
        origin = self._origin.of_gradient() if self._wire.first("gradient-nonfinite") else None
        self.alarm("gradient-nonfinite", math.nan, parameter=first, origin=origin)

    # ------------------------------------------------------------------ alarms

    def loss(self, value: float, find_origin: Callable[[], Record | None]) -> None:
        """A loss as backward is called on it."""
        if not math.isfinite(value):
            origin = find_origin() if self._wire.first("loss-nonfinite") else None
            self.alarm("loss-nonfinite", value, origin=origin)
            return
        limit = self._wire.jumped("loss", value)
        if limit is not None:
            self.alarm("loss-jump", value, limit)

    def norm(self, value: float) -> None:
        """A total norm as the script's own clip computed it."""
        if not math.isfinite(value):
            # after the scaling one NaN has spoilt every gradient: look now
            self.confirm_gradients()
            return
        limit = self._wire.jumped("norm", value)
        if limit is not None:
            self.alarm("norm-jump", value, limit)

    def alarm(
        self,
        kind: str,
        value: float,
        limit: float | None = None,
        *,
        parameter: int | None = None,
        origin: Record | None = None,
    ) -> None:
        """Write an alarm, record the next steps in full, tell the user's callback."""
        if not self._wire.may_report(kind):
            return
        record = {
            "step": self._clock.step,
            "kind": kind,
            "value": value,
            "limit": limit,
            "parameter": parameter,
            "module": origin["module"] if origin else None,
            "origin": origin,
        }
        self.writer.records("alarms", [record])
        self._cadence.burst(self._clock.step)
        if self._on_alarm is not None:
            try:
                self._on_alarm(record)
            except Exception as error:
                self._on_alarm = None
                _log.error("on_alarm failed and is not called again", exc_info=error)

    # ------------------------------------------------------------------ the end of a step

    def close(self, optimizer: Any, *, skipped: bool) -> None:
        """End the open step, write it, and open the next one."""
        step, plan, norm = self._clock.step, self.plan, None
        if self._gradients is not None:
            self.writer.rows("gradients", self._gradients)
            held = {identity for identity, _ in self._inventory.held_by(optimizer)}
            norm = total_norm(self._gradients, held)
        if plan.modules:
            self._write_modules(step)
        ordinal = -1 if optimizer is None else self._clock.optimizers.ordinal(optimizer)
        own = self._guard.take_seconds()
        record, events, length = self._clock.close(
            optimizer=ordinal,
            lr=learning_rates(optimizer),
            norm=norm,
            skipped=skipped,
            parameters_sampled=self._gradients is not None,
            modules_sampled=plan.modules,
            own_seconds=own,
        )
        self.writer.records("steps", [record])
        self.writer.records("events", events)
        self.writer.commit()
        self.steps += 1
        self._cadence.spent(plan, own, length)
        self.begin()

    def _write_modules(self, step: int) -> None:
        activations, units, blob = self._modules.take(step, self._look.consumers)
        self.writer.rows("activations", activations)
        self.writer.rows("units", units, blob)
        modules, parameters = self._look.structure(step)
        self.writer.records("modules", modules)
        self.writer.records("parameters", parameters)
        self.writer.records("features", self._look.targets(step))


def told_to_skip(optimizer: Any) -> bool:
    """Whether a fused optimizer was told by its loss scaler to skip this step."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
