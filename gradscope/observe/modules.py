"""Inputs and outputs of modules and the gradients at both, on the steps that are sampled.

Forward hooks read the tensors; a Tensor hook on each tensor that requires grad reads its gradient
(module backward hooks would break in-place operations and miss dicts). A tensor that carries
several names (the output of a Linear is also that of the Sequential around it) is read once.
"""

from __future__ import annotations

import functools
import math
import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.observe import module_rows, private, units
from gradscope.observe.frames import calls_running
from gradscope.observe.module_rows import Key, Row
from gradscope.observe.naming import IdMap
from gradscope.observe.samples import columns, distinct, flat_sample, plain
from gradscope.observe.slopes import module_kind
from gradscope.recording.facts import SAMPLE_SIZE, Role

Rows = npt.NDArray[np.void]

ROOT_CALLS = 4
"""Forwards of one root that are read in one step: more are evaluation or accumulation, and a mean
over four says the same."""
BEGINS = object()
"""In place of an output: the forward begins."""
SPREAD_FEATURES = SPREAD_SAMPLES = 4_096
"""Features and samples looked at for the spread over samples."""


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every floating tensor in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(thing, Tensor):
        if thing.is_floating_point() or thing.is_complex():
            yield thing
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from tensors_in(item)
    elif isinstance(thing, (tuple, list)):
        for item in thing:
            yield from tensors_in(item)
    elif is_dataclass(thing) and not isinstance(thing, type):
        for item in fields(thing):
            yield from tensors_in(getattr(thing, item.name, None))


def _inert(*_args: Any, **_kwargs: Any) -> None:
    """What a hook becomes in a copy of the model: nothing."""


class _Hook:
    """One hook of one module; a pickled or deep-copied model carries an inert one."""

    __slots__ = ("_call", "_module")

    def __init__(self, module: nn.Module, call: Callable[..., None]) -> None:
        self._module = weakref.ref(module)
        self._call = call

    def __call__(self, module: nn.Module, *args: Any) -> None:
        # torch.compile and torch.export inline what a hook does: it has to be nothing
        if not torch.compiler.is_compiling() and module is self._module():
            self._call(module, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (_inert,)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return _inert


@dataclass
class _Seen:
    """A tensor met in this step: what was read of it and the names that want its gradient."""

    tensor: weakref.ref[Tensor]
    version: int
    reading: int
    leaf_module: int = -1
    gradients: list[Key] = field(default_factory=list)


class ModuleWatch:
    """Hooks on every module of the watched trees and what they read in the current step."""

    def __init__(
        self,
        ids: IdMap,
        guard: Callable[[Callable[..., None]], Callable[..., None]],
        on_root: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None],
    ) -> None:
        """Make one.

        Args:
            ids: ids of modules.
            guard: wraps a callback so that its failure never reaches the user's code.
            on_root: called with a root, its arguments and BEGINS when its outermost forward begins
                (with its output when it ends), on every step.
        """
        self._ids = ids
        self._guard = guard
        self._on_root = on_root
        self._pid = os.getpid()
        self._watched: dict[int, tuple[weakref.ref[nn.Module], bool]] = {}
        self._handles: dict[int, list[RemovableHandle]] = {}
        self._current_root = -1
        self.active = False
        self.gradients = True
        """Whether gradients that arrive are those of a loss, and not of ``autograd.grad``."""
        self.order: dict[int, int] = {}
        self.calls: dict[int, int] = defaultdict(int)
        self.dtypes: dict[int, torch.dtype] = {}
        self.grad_disabled: dict[int, bool] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was read; called at the end of each step."""
        self._rows: dict[Key, Row] = defaultdict(Row)
        self._readings: list[Tensor] = []
        self._sizes: dict[int, tuple[int, int]] = {}
        self._seen: dict[int, _Seen] = {}
        self._units: dict[tuple[int, int], list[units.UnitReading]] = defaultdict(list)
        self._root_calls: dict[int, int] = defaultdict(int)

    # ------------------------------------------------------------------ attaching

    def attach(self, module: nn.Module, *, root: bool) -> None:
        """Watch one module; a second time does nothing.

        A root is hooked for good, since its call is needed on every step; the others only on the
        steps on which modules are read, since an idle hook costs some microseconds a call.
        """
        known = self._watched.get(id(module))
        if known is not None and known[0]() is module:
            return
        self._unhook(module)  # what an earlier object of this id has left
        self._watched[id(module)] = weakref.ref(module), root
        if root or self.active:
            self._hook(module, root)

    def activate(self, active: bool) -> None:
        """Begin or end to read modules, as a step begins."""
        self.order, self.calls = {}, defaultdict(int)
        if active == self.active:
            return
        self.active = active
        self.resume()

    def pause(self, above: nn.Module) -> None:
        """Take the hooks off a module and all below it until ``resume``."""
        for module in above.modules():
            self._unhook(module)

    def resume(self) -> None:
        """Hook what has to be hooked now, and nothing else."""
        for reference, root in self._watched.values():
            module = reference()
            if module is None:
                continue
            if not root and not self.active:
                self._unhook(module)
            elif id(module) not in self._handles:
                self._hook(module, root)

    def release(self, module: nn.Module) -> None:
        """Watch one module no more."""
        self._watched.pop(id(module), None)
        self._unhook(module)

    def detach(self) -> None:
        """Watch nothing any more."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._watched, self._handles = {}, {}
        self.active = False
        self.clear()

    def _hook(self, module: nn.Module, root: bool) -> None:
        before = self._guard(functools.partial(self._before, root))
        after = self._guard(functools.partial(self._after, root))
        self._handles[id(module)] = [
            module.register_forward_pre_hook(_Hook(module, before), with_kwargs=True),
            # always_call: after an exception, too, the end of a root's forward has to be told
            module.register_forward_hook(_Hook(module, after), with_kwargs=True, always_call=True),
        ]

    def _unhook(self, module: nn.Module) -> None:
        for handle in self._handles.pop(id(module), []):
            handle.remove()

    # ------------------------------------------------------------------ hooks

    def _blind(self) -> bool:
        """Whether a call is none of this training: a DataLoader's worker, a program being made."""
        return os.getpid() != self._pid or private.tracing()

    def _outermost(self) -> bool:
        """Whether the root that now begins or ends was not called by another root, or itself."""
        roots = 0
        for module in calls_running():
            reference, root = self._watched.get(id(module), (_inert, False))
            roots += root and reference() is module
        return roots <= 1

    def _before(
        self, root: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._blind():
            return
        outermost = root and self._outermost()
        if outermost:
            self._on_root(module, args, kwargs, BEGINS)
        identity = self._ids.get(module)
        if not self.active or identity is None:
            return
        leaf = not module._modules
        if leaf and module._parameters and not torch.is_grad_enabled():
            self.grad_disabled[identity] = True
        if outermost:
            self._current_root = identity
            self._root_calls[identity] += 1
        if not self._recorded(identity):
            return
        # the order is that of one forward: accumulation repeats it, and would count twice
        if self._root_calls.get(self._current_root, 1) == 1:
            self.order.setdefault(identity, len(self.order))
            self.calls[identity] += 1
        for position, tensor in enumerate(tensors_in((args, kwargs))):
            seen = self._note(tensor, (identity, Role.INPUT, position))
            if seen is None:
                continue
            self._want_gradient(seen, tensor, (identity, Role.GRAD_INPUT, position))
            row = self._rows[identity, Role.INPUT, position]
            row.source = seen.leaf_module
            if leaf and position == 0 and not tensor.is_nested:
                self._read_units(module, identity, tensor, seen)
                if seen.leaf_module == -1 and module._parameters:
                    # made by no module (data, a functional activation, a residual add)
                    self._read_spread(tensor, row)

    def _after(
        self,
        root: bool,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if self._blind():
            return
        if root and self._outermost():
            self._on_root(module, args, kwargs, output)
        identity = self._ids.get(module)
        if not self.active or identity is None or not self._recorded(identity):
            return
        leaf = not module._modules
        for position, tensor in enumerate(tensors_in(output)):
            seen = self._note(tensor, (identity, Role.OUTPUT, position))
            if seen is None:
                continue
            self.dtypes.setdefault(identity, tensor.dtype)
            if leaf:
                seen.leaf_module = identity
            self._want_gradient(seen, tensor, (identity, Role.GRAD_OUTPUT, position))
            if leaf:
                self._read_spread(tensor, self._rows[identity, Role.OUTPUT, position])

    def _recorded(self, identity: int) -> bool:
        if not torch.is_grad_enabled():
            return False
        if private.current_graph_task_id() != -1:
            # a checkpointed block runs again inside backward; read it there only if its first
            # run was without a graph
            return not any(key[0] == identity for key in self._rows if key[1] == Role.OUTPUT)
        return all(calls <= ROOT_CALLS for calls in self._root_calls.values())

    # ------------------------------------------------------------------ reading

    @torch.no_grad()
    def _read(self, tensor: Tensor) -> tuple[int, int, int] | None:
        """Queue the statistics of a tensor: its index, its count, the size of its sample."""
        dense = plain(tensor)
        if dense is None or not dense.numel() or dense.is_meta:
            return None
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

    def _note(self, tensor: Tensor, key: Key) -> _Seen | None:
        seen = self._seen.get(id(tensor))
        version = private.version(tensor)
        if seen is None or seen.tensor() is not tensor or seen.version != version:
            read = self._read(tensor)
            if read is None:
                return None
            seen = self._seen[id(tensor)] = _Seen(weakref.ref(tensor), version, read[0])
            self._sizes[read[0]] = read[1:]
        row = self._rows[key]
        row.readings.append(seen.reading)
        row.counts.append(self._sizes[seen.reading])
        row.batch = tensor.size(0) if tensor.dim() else -1
        if tensor.grad_fn is not None:
            row.edges.append((private.node_sequence_nr(tensor.grad_fn), tensor.output_nr))
        return seen

    def _want_gradient(self, seen: _Seen, tensor: Tensor, key: Key) -> None:
        # a leaf (an input, a returned parameter) would collect one hook a step
        if not tensor.requires_grad or tensor.is_leaf:
            return
        if not seen.gradients:
            hook = self._guard(functools.partial(self._gradient, seen.gradients))
            tensor.register_hook(hook)
        if key not in seen.gradients:
            seen.gradients.append(key)

    def _gradient(self, keys: list[Key], gradient: Tensor) -> None:
        if not self.active or not self.gradients or private.tracing():
            return
        read = self._read(gradient)
        if read is None:
            return
        for key in keys:
            row = self._rows[key]
            row.readings.append(read[0])
            row.counts.append(read[1:])
            row.batch = gradient.size(0) if gradient.dim() else -1

    def _read_units(self, module: nn.Module, identity: int, tensor: Tensor, seen: _Seen) -> None:
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
            self._units[identity, role].append(reading)

    @torch.no_grad()
    def _read_spread(self, tensor: Tensor, row: Row) -> None:
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_complex():
            return
        if tensor.dim() < 2 or tensor.shape[0] < 2 or plain(tensor) is None:
            return
        some = tensor.detach()[:: -(-tensor.shape[0] // SPREAD_SAMPLES)]
        flat = columns(some, SPREAD_FEATURES).to(torch.float32)
        # var() along axis 0 takes several times as long as these three passes
        variance = (flat - flat.mean(dim=0)).square_().mean()
        self._readings.append(torch.stack((variance, flat.square().mean(), variance, variance)))
        row.spreads.append(len(self._readings) - 1)

    # ------------------------------------------------------------------ rows

    def edges(self) -> dict[Key, tuple[int, int]]:
        """Autograd edge (node number, output number) of the tensor last seen under each key."""
        return {key: row.edges[-1] for key, row in self._rows.items() if row.edges}

    def take(self, step: int, consumers: Mapping[Key, int]) -> tuple[Rows, Rows, bytes]:
        """Rows of ``activations``, rows of ``units`` and their blob; then forget them."""
        numbers = module_rows.transfer(self._readings)
        activations = module_rows.activations(step, self._rows, numbers, consumers)
        states, blob = module_rows.units(step, self._units)
        self.clear()
        return activations, states, blob
