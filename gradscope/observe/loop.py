"""The training loop as the patched calls tell it: which call belongs to us, where a step ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe.clock import Clock
from gradscope.observe.guard import Guard, guarded
from gradscope.observe.handwritten import HandWritten
from gradscope.observe.inventory import Inventory
from gradscope.observe.leftover import Before, Leftover
from gradscope.observe.look import EarlyLook
from gradscope.observe.origin import OriginSearch
from gradscope.observe.recorder import Recorder, told_to_skip


class LoopListener:
    """A ``patches.Listener`` that turns calls into events and steps."""

    def __init__(
        self,
        *,
        guard: Guard,
        clock: Clock,
        inventory: Inventory,
        recorder: Recorder,
        look: EarlyLook,
        origin: OriginSearch,
        refresh: Callable[[], None],
        on_compile: Callable[[Any], None],
    ) -> None:
        self.guard = guard
        self._clock = clock
        self._inventory = inventory
        self._recorder = recorder
        self._look = look
        self._origin = origin
        self._refresh = refresh
        self._on_compile = on_compile
        self._depth: dict[int, int] = {}
        self._scaled: tuple[Tensor, float] | None = None
        self._leftover = Leftover()
        self._handwritten = HandWritten()
        self._forward_seen = self._any_forward = False
        self._manual = self._open_group = False

    def forward(self) -> None:
        """The outermost forward of a watched root begins, with gradients enabled."""
        self._forward_seen = self._any_forward = True

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
        if self._any_forward and not self._forward_seen and not self._open_group:
            return  # another model's
        before = self._manual_group_over()
        if before is not None:
            self._close(None, skipped=False)
        value = self._loss_value(tensors)
        left = self._leftover.before_backward(read=self._recorder.plan.parameters)
        if before is not None:
            left["-1"] = before
        site = self._clock.backward(value, {"left": left} if left else None)
        writer, step = self._recorder.writer, self._clock.step
        if self._recorder.plan.modules:
            writer.records("losses", self._look.losses(tensors, value, site, step))
            writer.records("examined", self._look.graph(tensors, step))
        if value is not None:
            find = functools.partial(self._origin.of_loss, tensors, site)
            self._recorder.loss(value, find)

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
    def autograd_grad(self) -> None:
        """See ``patches.Listener``."""
        self._clock.event("autograd-grad")

    def _loss_value(self, tensors: Sequence[Tensor]) -> float | None:
        if len(tensors) != 1 or tensors[0].numel() != 1:
            return None
        if self._scaled is not None and self._scaled[0] is tensors[0]:
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
            self._scaled = scaled, float(loss.detach())

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
        depth = self._depth[id(optimizer)] = self._depth.get(id(optimizer), 0) + 1
        if depth > 1 or torch.compiler.is_compiling() or not self._concerns(optimizer):
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
        depth = self._depth.get(id(optimizer), 1) - 1
        if depth:
            self._depth[id(optimizer)] = depth
            return
        self._depth.pop(id(optimizer), None)
        if self._concerns(optimizer):
            self._recorder.after_update()
            ordinal = self._clock.optimizers.ordinal(optimizer)
            self._leftover.stepped(ordinal, self._inventory.held_by(optimizer))
            self._close(optimizer, skipped=told_to_skip(optimizer))

    def _concerns(self, optimizer: Any) -> bool:
        """Whether a step of this optimizer is a step of ours; learns its parameters on the way."""
        # one that holds no watched parameter, but steps right after their forward and backward,
        # holds copies of them, or objects that were replaced since
        stranger = not self._inventory.has_optimizer and self._forward_seen
        if not self._inventory.holds(optimizer) and not (stranger and self._clock.backwards()):
            return False
        if self._inventory.adopt(optimizer, self._clock.optimizers.ordinal(optimizer)):
            self._refresh()
        return True
