"""The training loop as the patched calls tell it: which call belongs to us, where a step ends."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.autograd.look import EarlyLook
from gradscope.observe.birth.origin import OriginSearch
from gradscope.observe.callsite import OWN_LOOP, user_site
from gradscope.observe.clock import Clock
from gradscope.observe.frames import steps_running
from gradscope.observe.guard import Guard, guarded
from gradscope.observe.inventory import Inventory
from gradscope.observe.model.ownership import Ownership
from gradscope.observe.model.unseen import unseen
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.reading.module_readings import Backward
from gradscope.observe.recorder import Recorder, told_to_skip
from gradscope.observe.steps.divided import divided_by
from gradscope.observe.steps.handwritten import HandWritten
from gradscope.observe.steps.leftover import Leftover


class LoopListener:
    """A ``Listener`` that turns calls into events and steps.

    Attributes:
        on_close: called at the end of each step.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        clock: Clock,
        inventory: Inventory,
        modules: ModuleWatch,
        recorder: Recorder,
        look: EarlyLook,
        origin: OriginSearch,
        adopt: Callable[[Any], None],
        on_compile: Callable[[Any], None],
        on_compiled: Callable[[Any, Any], None],
    ) -> None:
        self.guard = guard
        self._clock = clock
        self._inventory = inventory
        self._modules = modules
        self._recorder = recorder
        self._look = look
        self._origin = origin
        self._on_compile = on_compile
        self._on_compiled = on_compiled
        self._sites: set[str] = {OWN_LOOP[0]}
        self._scaled: tuple[weakref.ref[Tensor], float, float | None] | None = None
        self._leftover = Leftover()
        self._handwritten = HandWritten(
            guard, inventory, recorder, lambda: self._close(None, skipped=False)
        )
        self._owner = Ownership(inventory, clock.optimizers, adopt)
        self._running: set[int] = set()
        """Threads in which backward runs for a watched parameter."""
        self._stepped_inside: Any = None
        """The optimizer that was first to step inside the backward that runs."""
        self.on_close: Callable[[], None] = lambda: None

    def forward(self) -> None:
        """The outermost forward of a watched root begins, with gradients enabled."""
        self._owner.forward()

    @property
    def any_forward(self) -> bool:
        """Whether a forward of a watched root was ever seen, with gradients enabled."""
        return self._owner.any_forward

    def finish(self) -> None:
        """The watching ends: close the last step of a hand-written loop."""
        self._handwritten.finish()
        self._inventory.limits += unseen(
            steps=self._recorder.steps,
            forwards=self.any_forward,
            backwards=self._clock.backwards(),
            others=self._owner.foreign_steps,
            uncalled=self._look.used_without_a_call(),
        )

    def _close(self, optimizer: Any, *, skipped: bool) -> None:
        self._recorder.close(optimizer, skipped=skipped, inside=self._stepped_inside is not None)
        self._owner.forward_seen = self._handwritten.open = False
        self._stepped_inside = None
        self._scaled = None
        self.on_close()

    # ------------------------------------------------------------------ backward

    @guarded
    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``Listener``."""
        self._origin.loss_ends()
        place = user_site()
        if not self._owner.of_backward(tensors, place, open_group=self._handwritten.open):
            return  # another model's
        self._running.add(threading.get_ident())
        before = self._handwritten.before_backward()
        value, divisor = self._loss_value(tensors)
        left = self._leftover.before_backward(read=self._recorder.plan.parameters)
        if before is not None:
            left["-1"] = before
        site = self._clock.backward(value, place, {"left": left} if left else None, divisor)
        self._keep_source(site)
        writer, step = self._recorder.writer, self._clock.step
        if self._recorder.plan.modules:
            writer.records("losses", self._look.losses(tensors, value, site, step))
            writer.records("examined", self._look.graph(tensors, step))
        self._origin.backward_begin(tensors, site)
        if value is not None:
            find = functools.partial(self._origin.of_loss, tensors, site)
            self._recorder.loss(value, find)

    def _keep_source(self, site: str | None) -> None:
        """Keep the text of a file that holds a training loop, once."""
        if site is not None and site not in self._sites:
            self._sites.add(site)
            files = [site.rpartition(":")[0]]
            self._recorder.writer.records("sources", self._inventory.sources_of(files))

    @guarded
    def backward_end(self) -> None:
        """See ``Listener``."""
        self._origin.backward_end()
        here = threading.get_ident()
        if here not in self._running:
            return
        self._running.discard(here)
        self._recorder.after_backward(scaled=self._scaled is not None)
        self._handwritten.after_backward(scaled=self._scaled is not None)
        if self._stepped_inside is not None:
            self._recorder.complete_gradients()
            self._close(self._stepped_inside, skipped=False)

    @guarded
    def autograd_grad_begin(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """See ``Listener``."""
        if not self._owner.here():
            return
        if not self._inventory.mine(inputs):
            self._clock.event("autograd-grad")
            self._modules.readings.backward = Backward.OTHER
            return
        self._modules.readings.backward = Backward.ASKED
        self._handwritten.before_backward()
        place = user_site()
        value, divisor = self._loss_value(outputs)
        site = self._clock.asked(value, place, divisor)
        self._leftover.asked()
        self._keep_source(site)
        if self._recorder.plan.modules and not self._clock.backward_seen:
            writer, step = self._recorder.writer, self._clock.step
            writer.records("losses", self._look.losses(outputs, value, site, step))
            writer.records("examined", self._look.graph(outputs, step))

    @guarded
    def autograd_grad_end(
        self, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        """See ``Listener``."""
        if not self._owner.here():
            return
        asked = self._modules.readings.backward is Backward.ASKED
        self._modules.readings.backward = Backward.LOSS
        if asked and gradients and not self._clock.backward_in_step:
            self._handwritten.after_asked(inputs, gradients)

    @guarded
    def script_begin(self, target: Any) -> None:
        """See ``Listener``."""
        if isinstance(target, nn.Module):
            self._modules.pause(target)

    @guarded
    def script_end(self) -> None:
        """See ``Listener``."""
        self._modules.resume()

    def process_start(self, process: Any) -> None:
        """See ``Listener``; a forked process records for itself, see ``Observer``."""

    @guarded
    def save_begin(self) -> None:
        """See ``Listener``."""
        self._modules.pause_all()

    @guarded
    def save_end(self) -> None:
        """See ``Listener``."""
        self._modules.resume()

    @guarded
    def swap_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``Listener``."""
        self._leftover = Leftover()  # it holds weak references, which a swap refuses
        self._modules.readings.let_go()
        self._inventory.parameters.let_go(tensors)

    @guarded
    def swap_end(self) -> None:
        """See ``Listener``."""
        self._inventory.parameters.take_back()

    def _loss_value(self, tensors: Sequence[Tensor]) -> tuple[float | None, float | None]:
        """The scalar that is differentiated, and the number that the loss was divided by."""
        if len(tensors) != 1 or tensors[0].numel() != 1:
            return None, None
        if self._scaled is not None and self._scaled[0]() is tensors[0]:
            return self._scaled[1:]
        loss = tensors[0].detach()
        return float(loss.real if loss.is_complex() else loss), divided_by(tensors[0])

    # ------------------------------------------------------------------ scale and clip

    @guarded
    def clip(self, parameters: Any, max_norm: float, total_norm: Tensor) -> None:
        """See ``Listener``."""
        if self._inventory.mine(parameters):
            total = float(total_norm)
            self._clock.clip(max_norm, total, self._inventory.optimizers_of(parameters))
            self._recorder.norm(total)

    @guarded
    def clip_value(self, parameters: Any, limit: float) -> None:
        """See ``Listener``."""
        if self._inventory.mine(parameters):
            self._clock.event("clip-value", limit=limit)

    @guarded
    def clip_end(self) -> None:
        """See ``Listener``."""
        self._handwritten.clipped()

    @guarded
    def scaled(self, loss: Any, scaled: Any) -> None:
        """See ``Listener``."""
        if isinstance(loss, Tensor) and isinstance(scaled, Tensor) and loss.numel() == 1:
            self._scaled = weakref.ref(scaled), float(loss.detach()), divided_by(loss)

    @guarded
    def unscaled(self, scaler: Any, optimizer: Any) -> None:
        """See ``Listener``."""
        scale = float(scaler.get_scale())
        self._clock.open.loss_scale = scale
        ordinal = self._clock.optimizers.ordinal(optimizer)
        self._clock.event("unscale", optimizer=ordinal, value=scale)

    @guarded
    def scaler_step(self, optimizer: Any, stepped: bool) -> None:
        """See ``Listener``."""
        if not stepped and self._owner.of_step(optimizer, self._clock.backwards()):
            self._clock.event("skip", optimizer=self._clock.optimizers.ordinal(optimizer))
            self._recorder.skipped()
            self._close(optimizer, skipped=True)

    # ------------------------------------------------------------------ the rest of the loop

    @guarded
    def compiling(self, target: Any) -> None:
        """See ``Listener``."""
        self._on_compile(target)

    @guarded
    def compiled(self, target: Any, result: Any) -> None:
        """See ``Listener``."""
        self._on_compiled(target, result)

    @guarded
    def zero_grad(self, owner: Any) -> None:
        """See ``Listener``."""
        if isinstance(owner, nn.Module):
            if self._inventory.modules.get(owner) is not None:
                self._clock.event("zero-grad")
                self._leftover.cleared(None)
        elif self._inventory.holds(owner):
            ordinal = self._clock.optimizers.ordinal(owner)
            self._clock.event("zero-grad", optimizer=ordinal)
            self._leftover.cleared(ordinal)

    # ------------------------------------------------------------------ step

    @guarded
    def step_begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """See ``Listener``."""
        self._origin.loss_ends()
        # a subclass that overrides step() and calls super() fires twice: the outermost counts
        if steps_running(optimizer) > 1:
            return None
        if not self._owner.of_step(optimizer, self._clock.backwards()):
            self._owner.foreign_steps += 1
            return None
        ordinal = self._clock.optimizers.ordinal(optimizer)
        if self._inside_backward():
            self._begin_inside(optimizer, ordinal)
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            used = self._leftover.before_step(ordinal, self._inventory.last_held_by(optimizer))
            self._clock.event(
                "step", optimizer=ordinal, detail={"gradient": used} if used else None
            )
            self._recorder.before_update(optimizer)
            return None
        self._clock.event("step", optimizer=ordinal, detail={"closure": True})
        wrapped = self._after_closure(closure, optimizer)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _inside_backward(self) -> bool:
        """Whether a hook of the user's runs inside backward (on an accelerator in its thread)."""
        if threading.get_ident() in self._running:
            return True
        return bool(self._running) and private.current_graph_task_id() != -1

    def _begin_inside(self, optimizer: Any, ordinal: int) -> None:
        """An optimizer steps inside backward, as a rule one of many: together they are one step."""
        if self._stepped_inside is None:
            self._stepped_inside = optimizer
            self._clock.event("step", optimizer=ordinal, detail={"inside_backward": True})
        self._recorder.before_update(optimizer, inside=True)

    def _after_closure(self, closure: Callable[..., Any], optimizer: Any) -> Callable[..., Any]:
        """The user's closure; when it first returns, the gradients of this step are there."""
        pending = [True]

        @functools.wraps(closure)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            if pending:
                pending.clear()
                self.guard.call(self._recorder.before_update, optimizer)
            return result

        return wrapped

    @guarded
    def step_end(self, optimizer: Any) -> None:
        """See ``Listener``."""
        if steps_running(optimizer) <= 1 and self._owner.of_step_end(
            optimizer, self._clock.backwards()
        ):
            self._recorder.after_update()
            if self._stepped_inside is not None:
                return
            ordinal = self._clock.optimizers.ordinal(optimizer)
            self._leftover.stepped(ordinal, self._inventory.last_held_by(optimizer))
            skipped = told_to_skip(optimizer)
            if skipped:
                self._recorder.skipped()
            self._close(optimizer, skipped=skipped)
