"""One step at a time: what is read in it, which alarms it raises, what is written at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradscope.observe.autograd.look import EarlyLook
from gradscope.observe.birth.origin import OriginSearch
from gradscope.observe.birth.ring import Ring
from gradscope.observe.birth.wire import SKIPS_IN_A_ROW, Wire, look
from gradscope.observe.cadence import Cadence, Plan
from gradscope.observe.clock import Clock, learning_rates
from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.reading.gradients import gradient_rows, total_norm
from gradscope.observe.reading.updates import UpdateWatch
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
        self._ring = Ring()
        self._skipped_in_a_row = 0
        self._unexplained: tuple[int, str] | None = None
        """Step and kind of the first non-finite alarm, to which a later replay belongs."""
        self._on_alarm = on_alarm
        self._gradients: npt.NDArray[np.void] | None = None
        self._alarmed = self._loss_alarmed = False

    def begin(self) -> None:
        """Open the next step."""
        step = self._clock.step
        self.plan = self._cadence.plan(step)
        self._gradients = None
        self._alarmed = self._loss_alarmed = False
        self._updates.drop()
        self._modules.readings.clear()
        if not self.plan.modules:
            self._modules.through_time.clear()
        self._modules.activate(self.plan.modules)
        self._look.begin(step, active=self.plan.modules)
        self._origin.begin(sampled=self.plan.modules)

    # ------------------------------------------------------------------ around the update

    def before_update(self, optimizer: Any, *, inside: bool = False) -> None:
        """The gradients of this step are complete and the parameters have not moved yet.

        Args:
            optimizer: the one that is about to step.
            inside: it steps inside backward, where only its own gradients are complete.
        """
        if self.plan.modules and not inside and not told_to_skip(optimizer):
            self._modules.through_time.measure()
        if self.plan.parameters:
            self.read_gradients(optimizer, inside=inside)
            scale = getattr(optimizer, "grad_scale", None)
            self._updates.before(self._inventory.held_by(optimizer), scale)
            return
        if not self._glance(optimizer) and not told_to_skip(optimizer):
            self.confirm_gradients()

    def after_backward(self, *, scaled: bool) -> None:
        """A backward call has ended; ``scaled``: its loss was multiplied by a loss scaler.

        Where the step has more micro-batches than are kept for a replay, the gradients are looked
        at before the oldest is forgotten.
        """
        if scaled or self._alarmed or not self._origin.crowded:
            return
        if not self._glance(None):
            self.confirm_gradients()

    def _glance(self, optimizer: Any) -> bool:
        ids = self._inventory.ids_held_by(optimizer)
        ids = [ids[position] for position in self._wire.chosen(len(ids))]
        parameters = [self._inventory.parameters.thing(identity) for identity in ids]
        alive = [parameter for parameter in parameters if parameter is not None]
        glance = look(alive)
        if len(alive) == len(ids):  # `None in parameters` would compare tensors
            self._ring.looked(ids, glance)
        return glance.finite()

    def after_update(self) -> None:
        """The parameters have moved."""
        if self.plan.parameters:
            updates, sketches = self._updates.after(
                self._clock.step, self._inventory.parameters.thing
            )
            self.writer.rows("updates", updates)
            self.writer.rows("sketches", sketches)

    def updates_begin(self, parameters: Sequence[tuple[int, Tensor]]) -> None:
        """Parameters may move from now on, with nobody to say so."""
        if self.plan.parameters:
            self._updates.before(parameters)

    def gradients_made(self, given: Mapping[int, Tensor]) -> None:
        """Gradients are complete, as far as can be told where no optimizer says so.

        Args:
            given: by parameter id, those that ``autograd.grad`` has returned; the others are
                ``.grad``.
        """
        if self.plan.modules:
            self._modules.through_time.measure()
        if self.plan.parameters:
            self.read_gradients(None, given=given)
            self._updates.before(self._inventory.trainable(), given=given)

    def gradient_arrived(self, identity: int, gradient: Tensor) -> None:
        """A gradient that will be used and cleared inside backward."""
        parameter = self._inventory.parameters.thing(identity)
        if self.plan.parameters and parameter is not None:
            given = {identity: gradient}
            self._append(
                gradient_rows(
                    self._clock.step, [(identity, parameter)], None, count=False, given=given
                )
            )

    def complete_gradients(self) -> None:
        """Backward has ended, in which optimizers have stepped: read what none of them held."""
        if self._gradients is None:
            return
        read = set(self._gradients["parameter"].tolist())
        rest = [item for item in self._inventory.trainable() if item[0] not in read]
        self._append(gradient_rows(self._clock.step, rest, None, count=False))

    def _append(self, rows: npt.NDArray[np.void]) -> None:
        if rows["nonfinite"].any():
            self._gradient_alarm(rows)
        old = self._gradients
        self._gradients = rows if old is None else np.concatenate([old, rows])

    def read_gradients(
        self, optimizer: Any, *, inside: bool = False, given: Mapping[int, Tensor] | None = None
    ) -> None:
        """Statistics of every gradient of the step, unless an alarm has already read them."""
        if self._alarmed:
            return
        scale = getattr(optimizer, "grad_scale", None)
        if inside:
            held = self._inventory.held_by(optimizer)
            self._append(gradient_rows(self._clock.step, held, scale, count=False))
            return
        parameters = self._inventory.to_read(optimizer)
        rows = gradient_rows(self._clock.step, parameters, scale, count=False, given=given)
        self._inventory.say_unread(parameters, rows)
        if rows["nonfinite"].any() and not told_to_skip(optimizer):
            rows = gradient_rows(self._clock.step, parameters, scale, count=True, given=given)
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

    def skipped(self) -> None:
        """A loss scaler has skipped the step; its gradients are still there.

        That is its normal work, until it has been at it for so long that no scale is to blame.
        """
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row <= SKIPS_IN_A_ROW or self._alarmed:
            return
        rows = gradient_rows(self._clock.step, self._inventory.to_read(None), None, count=True)
        if rows["nonfinite"].any():
            self._gradients = rows
            self._gradient_alarm(rows)

    def _gradient_alarm(self, rows: npt.NDArray[np.void]) -> None:
        if self._alarmed:
            return
        self._alarmed = True
        first = int(rows["parameter"][rows["nonfinite"] != 0][0])
        # of a loss that is not finite the gradients follow, and tell nothing of their own
        search = not self._loss_alarmed and self._wire.may_search("gradient-nonfinite")
        origin = self._origin.of_gradient() if search else None
        self.alarm("gradient-nonfinite", math.nan, parameter=first, origin=origin)

    # ------------------------------------------------------------------ alarms

    def loss(self, value: float, find_origin: Callable[[], Record | None]) -> None:
        """A loss as backward is called on it."""
        if not math.isfinite(value):
            self._loss_alarmed = True
            origin = find_origin() if self._wire.may_search("loss-nonfinite") else None
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
            "run_up": self._ring.records(),
        }
        if kind.endswith("-nonfinite") and self._unexplained is None:
            self._unexplained = self._clock.step, kind
        self.writer.records("alarms", [record])
        self._cadence.burst(self._clock.step)
        if self._on_alarm is not None:
            try:
                self._on_alarm(record)
            except Exception as error:
                self._on_alarm = None
                _log.error("on_alarm failed and is not called again", exc_info=error)

    def explained(self, origin: Record) -> None:
        """Write an origin that was found by a replay of the user's own."""
        step, kind = self._unexplained or (self._clock.step, "loss-nonfinite")
        record = {
            "step": step, "kind": kind, "value": math.nan, "limit": None, "parameter": None,
            "module": origin["module"], "origin": origin, "run_up": [],
        }  # fmt: skip
        self.writer.records("alarms", [record])
        self.writer.commit()

    # ------------------------------------------------------------------ the end of a step

    def close(self, optimizer: Any, *, skipped: bool, inside: bool = False) -> None:
        """End the open step, write it, and open the next one.

        Args:
            optimizer: whose step it is; None where the update is written by hand.
            skipped: a loss scaler skipped it.
            inside: it is one of several optimizers that stepped inside backward.
        """
        if optimizer is None:
            self.after_update()
        step, plan, norm = self._clock.step, self.plan, None
        if self._gradients is not None:
            self.writer.rows("gradients", self._gradients)
            mine = [] if inside else self._inventory.held_by(optimizer)
            held = {identity for identity, _ in mine}
            norm = total_norm(self._gradients, held)
        if plan.modules:
            self._write_modules(step, by_hand=optimizer is None)
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
        self._ring.close(step, record["loss"], record["norm_before_clip"])
        if not skipped:
            self._skipped_in_a_row = 0
        self.writer.records("steps", [record])
        self.writer.records("events", events)
        self.writer.commit()
        self.steps += 1
        self._cadence.spent(plan, own, length)
        self.begin()

    def _write_modules(self, step: int, *, by_hand: bool) -> None:
        activations, units, blob = self._modules.readings.take(
            step, self._look.consumers, asked=not self._clock.backward_in_step
        )
        self.writer.rows("activations", activations)
        self.writer.rows("units", units, blob)
        modules, parameters = self._look.structure(step)
        self.writer.records("modules", modules)
        self.writer.records("parameters", parameters)
        self.writer.records("features", self._look.targets(step))
        through_time = self._modules.through_time.take(step, open_calls=by_hand)
        self.writer.records("through_time", through_time)


def told_to_skip(optimizer: Any) -> bool:
    """Whether a fused optimizer was told by its loss scaler to skip this step."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
