"""What is read of the modules in the open step.

A tensor that carries several names (the output of a Linear is also that of the Sequential around
it) is read once.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradscope.observe import kernel, private
from gradscope.observe.reading import module_rows, units
from gradscope.observe.reading.module_rows import Key, Reading, Row
from gradscope.observe.reading.samples import columns, distinct, flat_sample, plain, sample_stride
from gradscope.observe.reading.slopes import module_kind
from gradscope.observe.steps.passes import AGAIN, Passes
from gradscope.recording.facts import SAMPLE_SIZE, Role

Rows = npt.NDArray[np.void]

SPREAD_FEATURES = SPREAD_SAMPLES = 4_096
"""Features and samples looked at for the spread over samples."""


class Backward(Enum):
    """Whose gradients arrive at the modules."""

    LOSS = "of a loss"
    ASKED = "of parameters, asked for by ``autograd.grad``: the step's, if no backward is called"
    OTHER = "of something else, by ``autograd.grad``: a penalty, an attack"


@dataclass(frozen=True)
class _Gradient:
    """A gradient that ``autograd.grad`` made."""

    keys: list[Key]
    read: tuple[int, int, int]
    batch: int
    number: int


@dataclass
class _Seen:
    """A tensor met in this step: what was read of it and the names that want its gradient."""

    tensor: weakref.ref[Tensor]
    version: int
    reading: int
    leaf_module: int = -1
    gradients: list[Key] = field(default_factory=list)


class ModuleReadings:
    """Readings by module, role and position, until they are taken at the end of the step.

    Attributes:
        active: whether this step's modules are read.
        backward: whose gradients arrive now.
        passes: the forwards of the step.
    """

    def __init__(self, guard: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
        """Make one; ``guard`` keeps a hook's failure away from the user's code."""
        self._guard = guard
        self.active = False
        self.backward = Backward.LOSS
        self.passes = Passes()
        self._steps = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was read; called at the end of each step."""
        self._steps += 1
        self._rows: dict[Key, Row] = defaultdict(Row)
        self._readings: list[Reading | None] = []
        self._sizes: dict[int, tuple[int, int]] = {}
        self._seen: dict[int, _Seen] = {}
        self._units: dict[tuple[int, int], list[module_rows.UnitsOfPass]] = defaultdict(list)
        self._asked: list[_Gradient] = []
        self.passes.clear()

    @torch.no_grad()
    def _read(self, tensor: Tensor) -> tuple[int, int, int] | None:
        """Queue the statistics of a tensor: its index, its count, the size of its sample."""
        dense = plain(tensor)
        if dense is None or not dense.numel() or dense.is_meta:
            return None
        if kernel.reads(dense):
            count = dense.numel()
            stride = sample_stride(count, SAMPLE_SIZE)
            total, square, largest, zeros = kernel.moments_of(dense, stride)
            self._readings.append((total, math.sqrt(square), largest, zeros))
            return len(self._readings) - 1, count, -(-count // stride)
        once, times = distinct(dense)
        low, high = once.aminmax()
        sample = flat_sample(dense, SAMPLE_SIZE)
        number = torch.float64 if dense.dtype == torch.float64 else torch.float32
        self._readings.append(
            torch.stack(
                (
                    once.sum(dtype=number) * times,
                    torch.linalg.vector_norm(once, dtype=number) * math.sqrt(times),
                    torch.maximum(high, -low).to(number),
                    (sample == 0).sum().to(number),
                )
            )
        )
        return len(self._readings) - 1, dense.numel(), len(sample)

    def has(self, identity: int) -> bool:
        """Whether an output of a module was read in this step."""
        return any(key[0] == identity for key in self._rows if key[1] == Role.OUTPUT)

    def row(self, key: Key) -> Row:
        """What was read under a key."""
        return self._rows[key]

    def begin(self, root: int, *, training: bool) -> None:
        """The outermost forward of a root begins."""
        idle = self.passes.begin(root, training=training)
        if idle is not None:
            self._forget(idle)

    def _pass(self) -> int:
        return AGAIN if private.current_graph_task_id() != -1 else self.passes.current

    def note(self, tensor: Tensor, key: Key) -> _Seen | None:
        """Read a tensor, once, and put it under ``key``; None if it cannot be read."""
        seen = self._seen.get(id(tensor))
        version = private.version(tensor)
        if seen is None or seen.tensor() is not tensor or seen.version != version:
            read = self._read(tensor)
            if read is None:
                return None
            seen = self._seen[id(tensor)] = _Seen(weakref.ref(tensor), version, read[0])
            self._sizes[read[0]] = read[1:]
        row = self._rows[key]
        row.add(seen.reading, self._sizes[seen.reading], self._pass())
        row.batch = tensor.size(0) if tensor.dim() else -1
        if tensor.grad_fn is not None:
            row.edges.append((private.node_sequence_nr(tensor.grad_fn), tensor.output_nr))
        return seen

    def want_gradient(self, seen: _Seen, tensor: Tensor, key: Key) -> None:
        """Read the gradient of a tensor under ``key`` when it comes."""
        # a leaf (an input, a returned parameter) would collect one hook a step
        if not tensor.requires_grad or tensor.is_leaf:
            return
        if not seen.gradients:
            made = self._steps, self._pass()
            hook = self._guard(functools.partial(self._gradient, seen.gradients, made))
            tensor.register_hook(hook)
        if key not in seen.gradients:
            seen.gradients.append(key)

    def _gradient(self, keys: list[Key], made: tuple[int, int], gradient: Tensor) -> None:
        if not self.active or self.backward is Backward.OTHER or private.tracing():
            return
        # the graph of an earlier step was kept: its forwards have other numbers
        number = made[1] if made[0] == self._steps else AGAIN
        if self.backward is Backward.LOSS:
            self.passes.arrived(number)
        read = self._read(gradient)
        if read is None:
            return
        found = _Gradient(keys, read, gradient.size(0) if gradient.dim() else -1, number)
        if self.backward is Backward.LOSS:
            self._keep(found)
        else:
            self._asked.append(found)

    def _keep(self, gradient: _Gradient) -> None:
        for key in gradient.keys:
            row = self._rows[key]
            row.add(gradient.read[0], gradient.read[1:], AGAIN)
            row.batch = gradient.batch

    def read_units(self, module: nn.Module, identity: int, tensor: Tensor, seen: _Seen) -> None:
        """Read which units of an activation are alive, at the input of a module."""
        kind = module_kind(module)
        if kind is not None:
            reading = units.read_module(kind, tensor, module)
            role = Role.OUTPUT
        elif module._parameters and seen.leaf_module == -1:
            reading = units.read_function(tensor)
            role = Role.INPUT
        else:
            return
        if reading is not None:
            self._units[identity, role].append((self._pass(), reading))

    @torch.no_grad()
    def read_spread(self, tensor: Tensor, row: Row) -> None:
        """Read how far the samples of a tensor differ."""
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_complex():
            return
        if tensor.dim() < 2 or tensor.shape[0] < 2 or plain(tensor) is None:
            return
        some = tensor.detach()[:: -(-tensor.shape[0] // SPREAD_SAMPLES)]
        flat = columns(some, SPREAD_FEATURES).to(torch.float32)
        # var() along axis 0 takes several times as long as these three passes
        variance = (flat - flat.mean(dim=0)).square_().mean()
        self._readings.append(torch.stack((variance, flat.square().mean(), variance, variance)))
        row.spreads.append((self._pass(), len(self._readings) - 1))

    # ------------------------------------------------------------------ rows

    def edges(self) -> dict[Key, tuple[int, int]]:
        """Autograd edge (node number, output number) of the tensor last seen under each key."""
        return {key: row.edges[-1] for key, row in self._rows.items() if row.edges}

    def take(
        self, step: int, consumers: Mapping[Key, int], *, asked: bool = False
    ) -> tuple[Rows, Rows, bytes]:
        """Rows of ``activations``, rows of ``units`` and their blob; then forget them.

        Args:
            step: the step.
            consumers: edges of the graph that read the tensor under each key.
            asked: the step's gradients are those that ``autograd.grad`` made.
        """
        if asked:
            for gradient in self._asked:
                self.passes.arrived(gradient.number)
                self._keep(gradient)
        self._drop(self.passes.idle())
        numbers = module_rows.transfer(self._readings)
        activations = module_rows.activations(step, self._rows, numbers, consumers)
        states, blob = module_rows.units(step, self._units)
        self.clear()
        return activations, states, blob

    def let_go(self) -> None:
        """Hold no tensor, not even weakly."""
        self._seen = {}

    def _forget(self, number: int) -> None:
        """Free what was read of a forward: a validation may hold thousands."""
        self._drop({number})
        used = {index for row in self._rows.values() for index in row.indices()}
        used.update(gradient.read[0] for gradient in self._asked)
        for index in range(len(self._readings)):
            if index not in used:
                self._readings[index] = None
        self._seen = {key: seen for key, seen in self._seen.items() if seen.reading in used}

    def _drop(self, numbers: Collection[int]) -> None:
        if not numbers:
            return
        for row in self._rows.values():
            row.drop(numbers)
        for key, readings in list(self._units.items()):
            left = [(number, reading) for number, reading in readings if number not in numbers]
            self._units[key] = left
            if not left:
                del self._units[key]
