"""Steers a training in a process of its own: lets interventions act, and notes every step's loss.

Only child processes use it: what it patches stays patched until the process ends or ``remove`` is
called. Nothing here reads a clock, so that a trial does not depend on the machine's load.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode

from gradscope.observe import private
from gradscope.observe.autograd.cuts import function_name
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.frames import caller, calls_running, steps_running

CLASSIFYING = frozenset({
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
})  # fmt: skip
"""Losses beside which the share of wrong answers is noted, a measure that no factor moves."""

_ARITHMETIC = {
    "__truediv__": "div", "__rtruediv__": "div", "true_divide": "div", "divide": "div",
    "__pow__": "pow",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of a trial.

    Attributes:
        loss: sum of the scalars that were differentiated for it; NaN where there was none.
        error: share of wrong answers in its batch; NaN where no classifying loss was seen.
    """

    loss: float
    error: float


def after(module: nn.Module, hook: Callable[..., Any]) -> Any:
    """Let ``hook(module, inputs, output)`` replace the module's output; gives the handle."""
    return module.register_forward_hook(hook)


def before(module: nn.Module, hook: Callable[..., Any]) -> Any:
    """Let ``hook(module, inputs)`` replace the module's positional inputs; gives the handle."""
    return module.register_forward_pre_hook(hook)


class Steering(TorchFunctionMode):
    """See the module's docstring.

    Args:
        interventions: what is changed, in this order.
        told: told of each step when it has ended; it may end the process.
        roots: the models, where they are known; else the outermost module that is called with
            gradients and for which ``is_root`` says so.
        is_root: see ``roots``.
        by_hand: whether the update is written by hand: then a backward call is a step.

    Attributes:
        interventions: see above.
        started: models that have been changed.
        optimizers: those that have stepped.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention],
        told: Callable[[Step], None],
        *,
        roots: Sequence[nn.Module] = (),
        is_root: Callable[[nn.Module], bool] = lambda module: True,
        by_hand: bool = False,
    ) -> None:
        super().__init__()
        self.interventions = tuple(interventions)
        self._told, self._roots, self._is_root = told, list(roots), is_root
        self._by_hand = by_hand
        self.started: list[nn.Module] = []
        self._undo: list[Callable[[], None]] = []
        self._losses: list[float] = []
        self._errors: list[float] = []
        self._scaled: dict[int, float] = {}
        self._names: dict[Any, str] = {}
        self._extended: set[int] = set()
        self._wanted: frozenset[str] = CLASSIFYING.union(
            *(i.operations for i in self.interventions)
        )
        self._every = any("" in i.operations for i in self.interventions)
        self.optimizers: list[Any] = []

    # ------------------------------------------------------------------ life

    def install(self) -> None:
        """Patch the calls of the loop, and change the models that are known already."""
        for root in self._roots:
            self._start(root)
        if not self._roots:
            self._undo.append(register_module_forward_pre_hook(self._forward).remove)
        pre = register_optimizer_step_pre_hook(self._step_begin)
        post = register_optimizer_step_post_hook(lambda o, _a, _k: self._step_end(o))
        self._undo += [pre.remove, post.remove]
        scaler, clip = torch.amp.grad_scaler.GradScaler, torch.nn.utils.clip_grad
        self._patch(torch.autograd, "backward", self._backward)
        self._patch(torch.optim.Optimizer, "zero_grad", self._zero_grad)
        self._patch(nn.Module, "zero_grad", self._zero_grad)
        self._patch(clip, "_clip_grads_with_norm_", self._clip)
        self._patch(clip, "clip_grad_value_", self._clip_value)
        self._patch(torch.nn.utils, "clip_grad_value_", self._clip_value)
        self._patch(scaler, "scale", self._scale)
        self._patch(scaler, "update", self._scaler_update)
        self._patch(torch.amp.autocast_mode.autocast, "__init__", self._autocast)
        if not private.compile_in_use():
            super().__enter__()
            self._undo.append(self._leave)

    def remove(self) -> None:
        """Take back what ``install`` patched; the models stay changed."""
        while self._undo:
            self._undo.pop()()

    def _leave(self) -> None:
        private.remove_function_mode(self)

    def _patch(self, holder: Any, name: str, replacement: Callable[..., Any]) -> None:
        original = holder.__dict__[name]

        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

        setattr(holder, name, patched)
        self._undo.append(functools.partial(setattr, holder, name, original))

    # ------------------------------------------------------------------ the model

    def _forward(self, module: nn.Module, _inputs: Any) -> None:
        if not torch.is_grad_enabled() or module in self.started or not self._is_root(module):
            return
        if sum(1 for _ in calls_running()) <= 1:
            self._start(module)

    def _start(self, root: nn.Module) -> None:
        self.started.append(root)
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        for intervention in self.interventions:
            # what a change draws must not move the training's own random numbers
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(torch.initial_seed() + 1)
                intervention.model(root)

    # ------------------------------------------------------------------ functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Ask the interventions for what they may replace; note the share of wrong answers."""
        kwargs = kwargs or {}
        name = self._names.get(func)
        if name is None:
            written = getattr(func, "__name__", "")
            name = self._names[func] = _ARITHMETIC.get(written) or function_name(func)
        if name not in self._wanted and not self._every:
            return func(*args, **kwargs)
        if not name:
            return func(*args, **kwargs)
        if name in CLASSIFYING:
            self._note_error(name, args, kwargs)
        for intervention in self.interventions:
            if name in intervention.operations:
                result = intervention.call(name, func, args, kwargs, caller())
                if result is not NotImplemented:
                    return result
        return func(*args, **kwargs)

    def _note_error(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if not torch.is_grad_enabled() or not isinstance(given, Tensor):
            return
        with torch.no_grad():
            found = _error(name, given.detach(), target)
        if found is not None:
            self._errors.append(found)

    # ------------------------------------------------------------------ the loop

    def _backward(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        single = isinstance(tensors, Tensor) and tensors.numel() == 1
        if not single or private.current_graph_task_id() != -1:
            return original(tensors, *args, **kwargs)
        value = self._scaled.pop(id(tensors), None)
        value = float(tensors.detach().real) if value is None else value
        for intervention in self.interventions:
            value = intervention.recorded(value)
            tensors = intervention.loss(tensors)
        result = original(tensors, *args, **kwargs)
        self._losses.append(value)
        if self._by_hand:
            held = [p for root in self.started for p in root.parameters() if p.requires_grad]
            for intervention in self.interventions:
                intervention.gradients(held)
            self._close()
        return result

    def _step_begin(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if steps_running(optimizer) > 1:
            return None
        if optimizer not in self.optimizers:
            self.optimizers.append(optimizer)
        self._extend(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._before_update(optimizer)
            return None
        first = [True]

        @functools.wraps(closure)
        def wrapped(*a: Any, **k: Any) -> Any:
            result = closure(*a, **k)
            # LBFGS calls it several times: the gradients of each call are used
            self._before_update(optimizer, rates=first[0])
            first[0] = False
            return result

        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _before_update(self, optimizer: Any, rates: bool = True) -> None:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for intervention in self.interventions:
            intervention.gradients(held)
            if rates:
                intervention.step_begin(optimizer)

    def _extend(self, optimizer: Any) -> None:
        """Give new parameters to the optimizer that holds most of the model's other ones."""
        if id(optimizer) in self._extended:
            return
        self._extended.add(id(optimizer))
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        ours = any(id(p) in held for root in self.started for p in root.parameters())
        for intervention in self.interventions:
            new = [p for p in intervention.added() if id(p) not in held]
            if new and (ours or not self.started):
                # in place: a further group breaks schedulers that count the groups
                optimizer.param_groups[0]["params"].extend(new)
                held.update(map(id, new))

    def _step_end(self, optimizer: Any) -> None:
        if steps_running(optimizer) > 1:
            return
        for intervention in self.interventions:
            intervention.step_end(optimizer)
        self._close()

    def _close(self) -> None:
        loss = math.fsum(self._losses) if all(map(math.isfinite, self._losses)) else math.inf
        step = Step(
            loss if self._losses else math.nan,
            math.fsum(self._errors) / len(self._errors) if self._errors else math.nan,
        )
        self._losses, self._errors = [], []
        self._told(step)

    # ------------------------------------------------------------------ other calls

    def _zero_grad(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        allowed = True
        for intervention in self.interventions:
            allowed = intervention.zero_grad(owner) and allowed
        return original(owner, *args, **kwargs) if allowed else None

    def _clip(self, original: Any, parameters: Any, max_norm: float, total: Any, *a: Any,
              **k: Any) -> Any:  # fmt: skip
        limit = self._limit(float(max_norm))
        return None if limit is None else original(parameters, limit, total, *a, **k)

    def _clip_value(self, original: Any, parameters: Any, clip_value: float, *a: Any,
                    **k: Any) -> Any:  # fmt: skip
        limit = self._limit(float(clip_value))
        return None if limit is None else original(parameters, limit, *a, **k)

    def _limit(self, given: float) -> float | None:
        limit: float | None = given
        for intervention in self.interventions:
            limit = None if limit is None else intervention.clip(limit)
        return limit

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        scaled = original(scaler, outputs)
        if isinstance(outputs, Tensor) and outputs.numel() == 1:
            self._scaled = {id(scaled): float(outputs.detach())}
        return scaled

    def _scaler_update(self, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(scaler, *args, **kwargs)
        if self._losses:  # the scaler has left out the optimizer's step
            self._close()
        return result

    def _autocast(self, original: Any, this: Any, device_type: str, dtype: Any = None, *args: Any,
                  **kwargs: Any) -> None:  # fmt: skip
        for intervention in self.interventions:
            dtype = intervention.autocast(dtype)
        original(this, device_type, dtype, *args, **kwargs)


def _error(name: str, given: Tensor, target: Any) -> float | None:
    if not isinstance(target, Tensor) or not target.numel():
        return None
    if name.startswith("binary"):
        if given.shape != target.shape:
            return None
        limit = 0.0 if name.endswith("logits") else 0.5
        return float(((given > limit) != (target > 0.5)).float().mean())
    if given.dim() < 1 or given.shape[-1 if given.dim() == 1 else 1] < 2:
        return None
    found = given.argmax(-1 if given.dim() == 1 else 1)
    wanted = target.argmax(1) if target.is_floating_point() and target.dim() > 1 else target
    if found.shape != wanted.shape:
        return None
    return float((found != wanted).float().mean())
