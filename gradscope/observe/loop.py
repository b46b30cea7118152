"""The training loop as the patched calls tell it: which call belongs to us, where a step ends."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.observe.callsite import OWN_LOOP, user_site
from gradscope.observe.clock import Clock
from gradscope.observe.frames import steps_running
from gradscope.observe.graph import reachable
from gradscope.observe.guard import Guard, guarded
from gradscope.observe.handwritten import HandWritten
from gradscope.observe.inventory import Inventory
from gradscope.observe.leftover import Before, Leftover
from gradscope.observe.look import EarlyLook
from gradscope.observe.modules import ModuleWatch
from gradscope.observe.origin import OriginSearch
from gradscope.observe.recorder import Recorder, told_to_skip


class LoopListener:
    """A ``patches.Listener`` that turns calls into events and steps.

    Attributes:
        any_forward: whether a forward of a watched root was ever seen.
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
    ) -> None:
        self.guard = guard
        self._clock = clock
        self._inventory = inventory
        self._modules = modules
        self._recorder = recorder
        self._look = look
        self._origin = origin
        self._adopt = adopt
        self._on_compile = on_compile
        self._sites: set[str] = {OWN_LOOP[0]}
        self._places: dict[tuple[str, int] | None, bool] = {}
        self._scaled: tuple[weakref.ref[Tensor], float] | None = None
        self._leftover = Leftover()
        self._handwritten = HandWritten()
        self._forward_seen = self.any_forward = False
        self._manual = self._open_group = False

    def forward(self) -> None:
        """The outermost forward of a watched root begins, with gradients enabled."""
        self._forward_seen = self.any_forward = True

    def finish(self) -> None:
        """The watching ends: close the last step of a hand-written loop."""
        if self._open_group and not self._inventory.has_optimizer:
            self._close(None, skipped=False)

    def _close(self, optimizer: Any, *, skipped: bool) -> None:
        self._recorder.close(optimizer, skipped=skipped)
        self._forward_seen = self._open_group = False
        self._scaled = None

    # ------------------------------------------------------------------ backward

    @guarded
    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``patches.Listener``."""
        place = user_site()
        if not self._is_ours(tensors, place):
            return  # another model's
        before = self._manual_group_over()
        if before is not None:
            self._close(None, skipped=False)
        value = self._loss_value(tensors)
        left = self._leftover.before_backward(read=self._recorder.plan.parameters)
        if before is not None:
            left["-1"] = before
        site = self._clock.backward(value, place, {"left": left} if left else None)
        self._keep_source(site)
        writer, step = self._recorder.writer, self._clock.step
        if self._recorder.plan.modules:
            writer.records("losses", self._look.losses(tensors, value, site, step))
            writer.records("examined", self._look.graph(tensors, step))
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
        """See ``patches.Listener``."""
        if not self._clock.backwards():
            return
        self._open_group = True
        if not self._inventory.has_optimizer:
            self._handwritten.after_backward(self._inventory.trainable())
        if self._manual and self._recorder.plan.parameters:
            # without an optimizer nobody says when the gradient is used: it is complete here
            self._recorder.read_gradients(None)

    @guarded
    def autograd_grad_begin(self) -> None:
        """See ``patches.Listener``."""
        self._clock.event("autograd-grad")
        self._modules.gradients = False

    @guarded
    def autograd_grad_end(self) -> None:
        """See ``patches.Listener``."""
        self._modules.gradients = True

    @guarded
    def script_begin(self, target: Any) -> None:
        """See ``patches.Listener``."""
        if isinstance(target, nn.Module):
            self._modules.pause(target)

    @guarded
    def script_end(self) -> None:
        """See ``patches.Listener``."""
        self._modules.resume()

    @guarded
    def swap_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``patches.Listener``."""
        self._leftover = Leftover()  # it holds weak references, which a swap refuses
        self._inventory.parameters.let_go(tensors)

    @guarded
    def swap_end(self) -> None:
        """See ``patches.Listener``."""
        self._inventory.parameters.take_back()

    def _is_ours(self, tensors: Sequence[Tensor], place: tuple[str, int] | None) -> bool:
        """Whether a loss depends on a watched parameter.

        A forward of a root came before as a rule, but a critic's loss may be made of a detached
        output, and the parts of a root may be called without it. The graph is walked at the first
        call from a line, and again where that line served another model before.
        """
        ran = self._forward_seen or self._open_group
        if ran and self._places.get(place):
            return True
        view = reachable(tensors)
        # a part of the graph may be hidden, and the hooks of compiled code are silent
        unknown = ran or not self.any_forward
        reached = (view.reaches(parameter) for _, parameter in self._inventory.trainable())
        ours = any(unknown if answer is None else answer for answer in reached)
        self._places[place] = ours
        return ours

    def _loss_value(self, tensors: Sequence[Tensor]) -> float | None:
        if len(tensors) != 1 or tensors[0].numel() != 1:
            return None
        if self._scaled is not None and self._scaled[0]() is tensors[0]:
            return self._scaled[1]
        loss = tensors[0].detach()
        return float(loss.real if loss.is_complex() else loss)

    def _manual_group_over(self) -> Before | None:
        """What became of the gradients, if a hand-written update ended the group of calls."""
        if not self._open_group or self._inventory.has_optimizer:
            return None
        before = self._handwritten.ended(self._inventory.trainable())
        self._manual = self._manual or before is not None
        return before

    # ------------------------------------------------------------------ scale and clip

    @guarded
    def clip(self, parameters: Any, max_norm: float, total_norm: Tensor) -> None:
        """See ``patches.Listener``."""
        if self._inventory.mine(parameters):
            total = float(total_norm)
            self._clock.clip(max_norm, total, self._inventory.optimizers_of(parameters))
            self._recorder.norm(total)

    @guarded
    def clip_value(self, parameters: Any, limit: float) -> None:
        """See ``patches.Listener``."""
        self._clock.event("clip-value", limit=limit)

    @guarded
    def scaled(self, loss: Any, scaled: Any) -> None:
        """See ``patches.Listener``."""
        if isinstance(loss, Tensor) and isinstance(scaled, Tensor) and loss.numel() == 1:
            self._scaled = weakref.ref(scaled), float(loss.detach())

    @guarded
    def unscaled(self, scaler: Any, optimizer: Any) -> None:
        """See ``patches.Listener``."""
        scale = float(scaler.get_scale())
        self._clock.open.loss_scale = scale
        ordinal = self._clock.optimizers.ordinal(optimizer)
        self._clock.event("unscale", optimizer=ordinal, value=scale)

    @guarded
    def scaler_step(self, optimizer: Any, stepped: bool) -> None:
        """See ``patches.Listener``."""
        if not stepped and self._concerns(optimizer):
            self._clock.event("skip", optimizer=self._clock.optimizers.ordinal(optimizer))
            self._close(optimizer, skipped=True)

    # ------------------------------------------------------------------ the rest of the loop

    @guarded
    def compiling(self, target: Any) -> None:
        """See ``patches.Listener``."""
        self._on_compile(target)

    @guarded
    def zero_grad(self, owner: Any) -> None:
        """See ``patches.Listener``."""
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
        """See ``patches.Listener``."""
        # a subclass that overrides step() and calls super() fires twice: the outermost counts
        if steps_running(optimizer) > 1 or not self._concerns(optimizer):
            return None
        ordinal = self._clock.optimizers.ordinal(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            used = self._leftover.before_step(ordinal, self._inventory.held_by(optimizer))
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
        """See ``patches.Listener``."""
        if steps_running(optimizer) <= 1 and self._concerns(optimizer):
            self._recorder.after_update()
            ordinal = self._clock.optimizers.ordinal(optimizer)
            self._leftover.stepped(ordinal, self._inventory.held_by(optimizer))
            self._close(optimizer, skipped=told_to_skip(optimizer))

    def _concerns(self, optimizer: Any) -> bool:
        """Whether a step of this optimizer is a step of ours; learns its parameters on the way."""
        # one that holds no watched parameter, but as many numbers, and steps right after their
        # forward and backward, holds copies of them, or those of another instance
        stranger = (
            not self._inventory.has_optimizer
            and self._forward_seen
            and self._inventory.equals_in_size(optimizer)
        )
        if (
            not self._inventory.holds(optimizer)
            and not (stranger and self._clock.backwards())
            and not self._inventory.rediscover(optimizer, self._clock.optimizers.ordinal(optimizer))
        ):
            return False
        self._adopt(optimizer)
        return True
