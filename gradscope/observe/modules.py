"""Inputs and outputs of modules and the gradients at both, on the steps that are sampled.

Forward hooks read the tensors; a Tensor hook on each tensor that requires grad reads its gradient
(module backward hooks would break in-place operations and miss dicts).
"""

from __future__ import annotations

import functools
import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradscope.observe import private
from gradscope.observe.frames import calls_running
from gradscope.observe.hooks import hook_both, inert
from gradscope.observe.naming import IdMap
from gradscope.observe.reading.containers import numbers_in
from gradscope.observe.reading.module_readings import ModuleReadings
from gradscope.observe.reading.through_time import ThroughTime
from gradscope.recording.facts import Role

BEGINS = object()
"""In place of an output: the forward begins."""


class ModuleWatch:
    """Hooks on every module of the watched trees.

    Attributes:
        readings: what they have read in the open step.
        through_time: calls of recurrent modules in the open step.
        pinned: hooks stay on all steps, since putting them on and off makes compiled code that
            runs one of the modules compile anew.
        ran: every module whose call was ever seen on a step that reads modules.
        order, calls: of the first forward of the step, place and number of calls by module.
        dtypes: dtype of the first output of each module.
        grad_disabled: modules that were called without grad.
    """

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
        self._meant: dict[int, weakref.ref[nn.Module]] = {}
        """The inner module of each compiled wrapper."""
        self._handles: dict[int, list[RemovableHandle]] = {}
        self._current_root = -1
        self.readings = ModuleReadings(guard)
        self.through_time = ThroughTime(self.readings, guard)
        self.pinned = False
        self.ran: set[int] = set()
        self.order: dict[int, int] = {}
        self.calls: dict[int, int] = defaultdict(int)
        self.dtypes: dict[int, torch.dtype] = {}
        self.grad_disabled: dict[int, bool] = {}

    # ------------------------------------------------------------------ attaching

    def attach(self, module: nn.Module, *, root: bool, meant: nn.Module | None = None) -> None:
        """Watch one module; a second time does nothing.

        A root is hooked for good, since its call is needed on every step; the others only on the
        steps on which modules are read, since an idle hook costs some microseconds a call.

        Args:
            module: the module.
            root: whether it is a root.
            meant: the root inside, where ``module`` is the wrapper that ``torch.compile`` makes.
        """
        known = self._watched.get(id(module))
        if known is not None and known[0]() is module:
            return
        self._unhook(module)  # what an earlier object of this id has left
        self._watched[id(module)] = weakref.ref(module), root
        if meant is not None and meant is not module:
            self._meant[id(module)] = weakref.ref(meant)
        if root or self.readings.active or self.pinned:
            self._hook(module, root)

    def attach_only(self, modules: Sequence[tuple[nn.Module, bool, nn.Module]]) -> None:
        """Watch these modules, each with its ``root`` and ``meant``, and no others any more."""
        for module, root, meant in modules:
            self.attach(module, root=root, meant=meant)
        wanted = {id(module) for module, _, _ in modules}
        others = [ref for key, (ref, _) in self._watched.items() if key not in wanted]
        for reference in others:
            if (other := reference()) is not None:
                self.release(other)

    def watches(self, module: nn.Module) -> bool:
        """Whether calls of a module can be seen."""
        known = self._watched.get(id(module))
        return known is not None and known[0]() is module

    def pin(self) -> None:
        """Leave the hooks on from now on."""
        self.pinned = True
        self.resume()

    def activate(self, active: bool) -> None:
        """Begin or end to read modules, as a step begins."""
        self.order, self.calls = {}, defaultdict(int)
        if active != self.readings.active:
            self.readings.active = active
            self.resume()

    def pause(self, above: nn.Module) -> None:
        """Take the hooks off a module and all below it until ``resume``."""
        for module in above.modules():
            self._unhook(module)

    def pause_all(self) -> None:
        """Take all hooks off until ``resume``, unless compiled code would be compiled anew."""
        for reference, _ in [] if self.pinned else list(self._watched.values()):
            module = reference()
            if module is not None:
                self._unhook(module)

    def resume(self) -> None:
        """Hook what has to be hooked now, and nothing else."""
        for reference, root in self._watched.values():
            module = reference()
            if module is None:
                continue
            if not (root or self.readings.active or self.pinned):
                self._unhook(module)
            elif id(module) not in self._handles:
                self._hook(module, root)

    def release(self, module: nn.Module) -> None:
        """Watch one module no more."""
        self._watched.pop(id(module), None)
        self._meant.pop(id(module), None)
        self._unhook(module)

    def detach(self) -> None:
        """Watch nothing any more."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._watched, self._handles, self._meant = {}, {}, {}
        self.readings.active = self.pinned = False
        self.readings.clear()
        self.through_time.clear()

    def _hook(self, module: nn.Module, root: bool) -> None:
        before = self._guard(functools.partial(self._before, root))
        after = self._guard(functools.partial(self._after, root))
        meant = self._meant.get(id(module), inert)()
        self._handles[id(module)] = hook_both(module, before, after, meant)

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
            reference, root = self._watched.get(id(module), (inert, False))
            roots += root and reference() is module
        return roots <= 1

    def begun(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell of a call that had begun when its module was attached."""
        if self.watches(module):
            self._before(self._watched[id(module)][1], module, args, kwargs)

    def _before(
        self, root: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._blind():
            return
        outermost = root and self._outermost()
        if outermost:
            self._on_root(module, args, kwargs, BEGINS)
        identity = self._ids.get(module)
        readings = self.readings
        if not readings.active or identity is None:
            return
        leaf = not module._modules
        self.ran.add(identity)
        if leaf and module._parameters and not torch.is_grad_enabled():
            self.grad_disabled[identity] = True
        if outermost and torch.is_grad_enabled():
            self._current_root = identity
            readings.begin(identity, training=module.training)
        if not self._recorded(identity):
            return
        # the order is that of one forward: accumulation repeats it, and would count twice
        if readings.passes.first(self._current_root):
            self.order.setdefault(identity, len(self.order))
            self.calls[identity] += 1
        for position, tensor in enumerate(numbers_in((args, kwargs))):
            seen = readings.note(tensor, (identity, Role.INPUT, position))
            if seen is None:
                continue
            readings.want_gradient(seen, tensor, (identity, Role.GRAD_INPUT, position))
            row = readings.row((identity, Role.INPUT, position))
            row.source = seen.leaf_module
            if leaf and position == 0 and not tensor.is_nested:
                readings.read_units(module, identity, tensor, seen)
                if seen.leaf_module == -1 and module._parameters:
                    # made by no module (data, a functional activation, a residual add)
                    readings.read_spread(tensor, row)

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
        outermost = root and self._outermost()
        if outermost:
            self._on_root(module, args, kwargs, output)
        identity = self._ids.get(module)
        if self.readings.active and identity is not None and self._recorded(identity):
            self._read_output(module, identity, output)
            self.through_time.called(module, identity, args, kwargs, output)
        if outermost and private.current_graph_task_id() == -1:
            self.readings.passes.end()

    def _read_output(self, module: nn.Module, identity: int, output: Any) -> None:
        leaf, readings = not module._modules, self.readings
        for position, tensor in enumerate(numbers_in(output)):
            seen = readings.note(tensor, (identity, Role.OUTPUT, position))
            if seen is None:
                continue
            self.dtypes.setdefault(identity, tensor.dtype)
            if leaf:
                seen.leaf_module = identity
            readings.want_gradient(seen, tensor, (identity, Role.GRAD_OUTPUT, position))
            if leaf:
                readings.read_spread(tensor, readings.row((identity, Role.OUTPUT, position)))

    def _recorded(self, identity: int) -> bool:
        if not torch.is_grad_enabled():
            return False
        if private.current_graph_task_id() != -1:
            # a checkpointed block runs again inside backward; read it there only if its first
            # run was without a graph
            return not self.readings.has(identity)
        return self.readings.passes.reading
