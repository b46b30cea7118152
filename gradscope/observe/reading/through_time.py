"""How much of the gradient reaches the early time steps of a recurrent layer.

A recurrent layer of torch computes all its time steps in one operation, so that no hook sees a
gradient between two of them. What can be seen is the gradient that arrives at its outputs; with it
the layer is run once more, on an input of which the gradient is asked, before the weights move.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.observe import patches, private
from gradscope.observe.reading.containers import tensors_in
from gradscope.observe.reading.module_readings import Backward, ModuleReadings
from gradscope.observe.reading.samples import plain

Record = dict[str, Any]
State = Tensor | tuple[Tensor, Tensor] | None
"""First state of a layer: of an LSTM a pair, None for zeros."""

BINS = 8
MODULES = 4
"""Recurrent modules looked at in one step: a stack of more is seldom, and each runs once more."""
CALLS = 2
"""Calls of one module kept in a step: the last one with a gradient tells."""
ELEMENTS = 2**22
"""Elements of input and outputs of a call that is kept, 16 MiB: a longer one is not looked at."""
_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


@dataclass
class _Call:
    """One call: what running it again takes, and the gradients that came back to its outputs."""

    module: weakref.ref[nn.RNNBase]
    x: Tensor
    state: State
    versions: list[int]
    gradients: list[Tensor | None]
    backward: Backward = Backward.LOSS
    __weakref__: Any = field(init=False, repr=False, compare=False)


class ThroughTime:
    """Keeps the calls of recurrent modules of a sampled step, and measures them before its update.

    In one direction only: with two, each time step is near one end of the sequence. Cells that a
    loop calls step by step, and packed sequences, are not looked at either.
    """

    def __init__(self, readings: ModuleReadings, guard: Callable[..., Callable[..., None]]) -> None:
        """Make one.

        Args:
            readings: say whether modules are read now, and whose gradients arrive.
            guard: keeps a hook's failure away from the user's code.
        """
        self._readings = readings
        self._guard = guard
        self.clear()

    def clear(self) -> None:
        """Forget the step."""
        self._calls: dict[int, deque[_Call]] = {}
        self._measured: dict[int, Tensor] = {}

    def called(
        self, module: nn.Module, identity: int, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> None:
        """A module was called, in a forward that is read."""
        # without an output the call has failed, and its arguments may be any
        if not isinstance(module, nn.RNNBase) or output is None or not _repeatable(module):
            return
        if identity not in self._calls and len(self._calls) == MODULES:
            return
        x, state = _arguments(*args, **kwargs)
        heads = tensors_in(output)
        tensors = [*tensors_in(x), *tensors_in(state), *heads]
        if not isinstance(x, Tensor) or not all(map(_usual, tensors)):
            return
        if x.shape[_time_axis(module, x)] < 2 or sum(t.numel() for t in tensors) > ELEMENTS:
            return
        wanted = [head.requires_grad and not head.is_leaf for head in heads]
        if not any(wanted):
            return
        kept = x.detach(), _each(state, Tensor.detach)
        call = _Call(weakref.ref(module), *kept, _versions(module, *kept), [None for _ in heads])
        for position, head in enumerate(heads):
            if wanted[position]:
                # a graph that the user keeps must not keep what the step has dropped
                arrived = functools.partial(self._arrived, weakref.ref(call), position)
                head.register_hook(self._guard(arrived))
        self._calls.setdefault(identity, deque(maxlen=CALLS)).append(call)

    def _arrived(self, kept: weakref.ref[_Call], position: int, gradient: Tensor) -> None:
        call, backward = kept(), self._readings.backward
        if call is None or backward is Backward.OTHER or private.tracing():
            return
        if call.backward is not backward:
            if call.backward is Backward.LOSS and any(g is not None for g in call.gradients):
                return  # asked for beside the step's own
            call.gradients = [None for _ in call.gradients]
            call.backward = backward
        before, gradient = call.gradients[position], gradient.detach()
        call.gradients[position] = gradient if before is None else before + gradient

    def measure(self) -> None:
        """The gradients have arrived and the weights have not moved: run each module once more."""
        for identity, calls in self._calls.items():
            told = [call for call in calls if any(g is not None for g in call.gradients)]
            if not told:
                continue
            # a layer that cannot be run again is not measured: that is no failure of gradscope
            with patches.unnoticed(), contextlib.suppress(Exception):
                gradient = input_gradient(told[-1])
                if gradient is not None:
                    self._measured[identity] = _by_time(gradient)

    def take(self, step: int, *, open_calls: bool = False) -> list[Record]:
        """Records of table ``through_time``; then the step is forgotten.

        Args:
            step: the step.
            open_calls: keep calls to which no gradient has come: a hand-written update ends when
                the next backward begins, after the forward of the next step.
        """
        records = []
        for identity, rms in self._measured.items():
            sizes = rms.cpu().numpy().astype(np.float64)[::-1]
            if np.isfinite(sizes).all():
                records.append(
                    {"step": step, "module": identity, "length": len(sizes), "bins": bins(sizes)}
                )
        calls = self._calls if open_calls else {}
        self.clear()
        for identity, several in calls.items():
            fresh = [call for call in several if all(g is None for g in call.gradients)]
            if fresh:
                self._calls[identity] = deque(fresh, maxlen=CALLS)
        return records


def input_gradient(call: _Call) -> Tensor | None:
    """Gradient of the loss with respect to a call's input, ``[time, ...]``; None if it is gone."""
    module = call.module()
    if module is None or not _plain_weights(module):
        return None
    if _versions(module, call.x, call.state) != call.versions:
        return None  # the input was overwritten, or the weights have moved, since the call
    weight = module.weight_ih_l0
    assert isinstance(weight, Tensor)
    dtype = weight.dtype
    x = call.x.to(dtype, copy=True).requires_grad_()
    state = _each(call.state, lambda tensor: tensor.to(dtype))
    with torch.enable_grad(), _alone(module, x.device):
        # the forward itself: a call would run the hooks of the module, the user's among them
        heads = tensors_in(type(module).forward(module, x, state))
        pairs = [(h, g.to(h.dtype)) for h, g in zip(heads, call.gradients, strict=True)
                 if g is not None]  # fmt: skip
        (gradient,) = torch.autograd.grad([h for h, _ in pairs], [x], [g for _, g in pairs])
    return gradient.movedim(_time_axis(module, x), 0)


@contextlib.contextmanager
def _alone(module: nn.RNNBase, device: torch.device) -> Iterator[None]:
    """Without autocast, and with the random states put back: dropout draws another mask."""
    cuda = device.type == "cuda"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if cuda else []))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if _draws(module) and cuda:
            # cuDNN's dropout has a state of its own, which cannot be put back
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _by_time(gradient: Tensor) -> Tensor:
    """Root mean square of each time step ``[time]``; scaled, so that no square underflows."""
    sizes = gradient.reshape(len(gradient), -1).abs()
    if sizes.dtype != torch.float64:
        sizes = sizes.float()
    top = sizes.amax(dim=1, keepdim=True)
    shares = sizes / torch.where(top > 0, top, torch.ones_like(top))
    return top[:, 0] * shares.square().mean(dim=1).sqrt()


def bins(sizes: npt.NDArray[np.float64]) -> list[list[float]]:
    """``[first, last, rms]`` over distances from the last time step, which grow like a power.

    Args:
        sizes: root mean square at each distance, nearest first, ``[time]``.
    """
    edges = _edges(len(sizes))
    found = []
    for first, behind in itertools.pairwise(edges):
        part = sizes[first:behind]
        top = float(part.max())
        rms = top * float(np.sqrt(np.mean((part / top) ** 2))) if top > 0 else top
        found.append([first, behind - 1, rms])
    return found


def _edges(length: int) -> list[int]:
    """First distance of each bin, and ``length``: 0, 1, 2, 4, 8, 14, 26, 45, 80 for 80 steps."""
    count = min(length, BINS)
    edges = [0]
    for number in range(1, count + 1):
        # each bin holds one time step at least, those behind it too
        far = round(length ** (number / count)) - (number < count)
        edges.append(min(max(far, edges[-1] + 1), length - (count - number)))
    return edges


# ------------------------------------------------------------------ what can be run again


def _repeatable(module: nn.RNNBase) -> bool:
    """Whether the forward is torch's own, in one direction, and can be run again unseen."""
    if module.bidirectional or type(module).forward not in _FORWARDS:
        return False
    if "forward" in module.__dict__ or private.functorch_level_active():
        return False
    if not _plain_weights(module):
        return False
    return module.weight_ih_l0.device.type in ("cpu", "cuda") or not _draws(module)


def _plain_weights(module: nn.RNNBase) -> bool:
    """Whether its weights are its own parameters, and are there.

    A parametrization, which may draw or count, runs whenever its weight is read; a sharded weight
    may have given its memory back.
    """
    held = [weight for weight in module._parameters.values() if weight is not None]
    used = private.recurrent_weights(module)
    if module._modules or not used:
        return False
    whole = all(weight.untyped_storage().nbytes() > 0 for weight in held)
    return whole and all(any(weight is one for one in held) for weight in used)


def _draws(module: nn.RNNBase) -> bool:
    return module.training and module.dropout > 0 and module.num_layers > 1


def _arguments(input: Any = None, hx: Any = None) -> tuple[Any, Any]:
    """Arguments of a recurrent layer; no packed sequence."""
    return (None, None) if isinstance(input, PackedSequence) else (input, hx)


def _usual(tensor: Tensor) -> bool:
    dense = plain(tensor)
    return dense is not None and dense.shape == tensor.shape and not tensor.is_nested


def _time_axis(module: nn.RNNBase, x: Tensor) -> int:
    return 1 if module.batch_first and x.dim() == 3 else 0


def _each(state: State, make: Callable[[Tensor], Tensor]) -> State:
    if state is None or isinstance(state, Tensor):
        return None if state is None else make(state)
    return make(state[0]), make(state[1])


def _versions(module: nn.RNNBase, x: Tensor, state: State) -> list[int]:
    tensors = [x, *tensors_in(state), *module.parameters()]
    return [private.version(tensor) for tensor in tensors]


__all__ = ["ThroughTime", "bins", "input_gradient"]
