"""Finds what a script trains, while it runs: nobody says which models there are.

An optimizer tells of its parameters when it is built. The modules that hold them are looked up at
the next forward with gradients enabled, because until then the script may still put them into a
larger model; a hook on all modules waits for that forward and is then taken off again, since
compiled code would run into it. Without an optimizer the graph of the first ``backward`` tells.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.observe import patches, private
from gradscope.observe.autograd.graph import reachable
from gradscope.observe.frames import keywords_of
from gradscope.observe.guard import Guard, guarded
from gradscope.observe.listener import Listener
from gradscope.observe.model.construction import ConstructionTrace
from gradscope.observe.model.labels import held_by_variables, names_of
from gradscope.observe.model.owners import parameters_below, roots_of

MOST_ROOTS = 64
"""Roots that are watched; a loop that builds a model for each task would have no end."""
MOST_LOOKS = 4
"""Backward calls whose graph is walked for parameters of a hand-written update."""


@dataclass(frozen=True)
class Found:
    """What is newly known to be trained.

    Attributes:
        models: roots.
        labels: name of each root's variable in the user's code.
        loose: tensors in no module, by the names of their variables or attributes.
        optimizers: the optimizers that hold them; none for a hand-written update.
        compiled: what was given to ``torch.compile`` before: modules, None for a function.
    """

    models: tuple[nn.Module, ...]
    labels: tuple[str | None, ...]
    loose: Mapping[str, Tensor] = field(default_factory=dict)
    optimizers: tuple[Any, ...] = ()
    compiled: tuple[nn.Module | None, ...] = ()


class Watching(Protocol):
    """What watches a training that has been found.

    Attributes:
        listener: told of the call in which it was found; of those that follow it is told anyway.
    """

    @property
    def listener(self) -> Listener:
        """See the class."""

    def begun(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See ``Observer.begun``."""


class Discovery(Listener):
    """Looks for roots from ``begin`` to ``end``.

    Attributes:
        guard: keeps its own failure away from the script.
        limits: sentences about what was not looked for.
        gradient_calls: calls of ``torch.autograd.grad``, the functions of ``torch.func`` included.
        backward_calls: calls of backward.
    """

    def __init__(
        self,
        on_found: Callable[[Found], Watching | None],
        on_process: Callable[[Any], None] = lambda process: None,
    ) -> None:
        """Make one.

        Args:
            on_found: told of what is found; gives what watches it.
            on_process: told of each process of ``multiprocessing`` before it starts.
        """
        self._on_process = on_process
        self.guard = Guard()
        self.limits: list[str] = []
        self.gradient_calls = self.backward_calls = 0
        self._on_found = on_found
        self._trace = ConstructionTrace(self._optimizer_built)
        self._scout: RemovableHandle | None = None
        self._pending: list[weakref.ref[Any]] = []
        self._optimizers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._roots: list[weakref.ref[nn.Module]] = []
        self._compiled: list[weakref.ref[nn.Module] | None] = []
        self._looks = 0
        self._watching: Watching | None = None

    def begin(self) -> None:
        """Begin to look."""
        self.guard.open = True
        self._trace.__enter__()
        patches.add(self)

    def end(self) -> None:
        """Look no more; leaves no patch and no hook behind."""
        patches.remove(self)
        self._trace.__exit__()
        self._withdraw()
        self.guard.open = False

    # ------------------------------------------------------------------ what tells of parameters

    def _optimizer_built(self, optimizer: Optimizer) -> None:
        self.guard.call(self._await, optimizer)

    def _await(self, optimizer: Any) -> None:
        self._optimizers[optimizer] = _held(optimizer)
        self._pending.append(weakref.ref(optimizer))
        if self._compiled:
            # a hook on all modules makes compiled code warn: look at once
            self._resolve()
        elif self._scout is None:
            self._scout = register_module_forward_pre_hook(self._forward)

    def _forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        # torch.compile inlines what a hook does: it has to be nothing
        if not torch.compiler.is_compiling():
            self.guard.call(self._scouted, module, args)

    def _scouted(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled() or private.tracing():
            return
        wanted = {id(p) for p in _parameters(self._waiting())}
        if wanted.isdisjoint(id(p) for p in module.parameters()):
            return
        watching = self._resolve()
        if watching is not None:
            watching.begun(module, args, keywords_of(module))

    @guarded
    def compiling(self, target: Any) -> None:
        """See ``Listener``."""
        module = isinstance(target, nn.Module)
        self._compiled.append(weakref.ref(target) if module else None)
        self._resolve()

    @guarded
    def backward_begin(self, tensors: Sequence[Tensor]) -> None:
        """See ``Listener``."""
        self.backward_calls += 1
        before = self._watching
        if self._pending:
            self._resolve()
        elif not len(self._optimizers) and not self._roots and self._looks < MOST_LOOKS:
            self._looks += 1
            self._by_graph(tensors)
        if before is None and self._watching is not None:
            self._watching.listener.backward_begin(tensors)

    @guarded
    def process_start(self, process: Any) -> None:
        """See ``Listener``."""
        self._on_process(process)

    @guarded
    def autograd_grad_begin(self, *_: Any) -> None:
        """See ``Listener``."""
        self.gradient_calls += 1

    @guarded
    def step_begin(
        self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """See ``Listener``."""
        # one that was read from a file or copied, or was given a new group
        if self._optimizers.get(optimizer) != _held(optimizer):
            self._optimizers[optimizer] = _held(optimizer)
            self._pending.append(weakref.ref(optimizer))
        before = self._watching
        if self._pending:
            self._resolve()
        if before is None and self._watching is not None:
            return self._watching.listener.step_begin(optimizer, args, kwargs)
        return None

    # ------------------------------------------------------------------ looking up

    def _waiting(self) -> list[Any]:
        return [optimizer for ref in self._pending if (optimizer := ref()) is not None]

    def _withdraw(self) -> None:
        if self._scout is not None:
            self._scout.remove()
            self._scout = None

    def _resolve(self) -> Watching | None:
        """Look up whose parameters the waiting optimizers hold."""
        self._withdraw()
        optimizers = self._waiting()
        self._pending = []
        parameters = _parameters(optimizers)
        return self._tell(parameters, optimizers) if parameters else None

    def _by_graph(self, tensors: Sequence[Tensor]) -> None:
        """Whose parameters a loss depends on, when no optimizer was ever built."""
        leaves = reachable(tensors).leaves
        roots = roots_of(leaves) if leaves else []
        if roots:
            # a model in evaluation is differentiated for another reason: an attack, a saliency map
            trained = [root for root in roots if root.training]
            if trained:
                self._tell_roots(trained, {}, ())
            return
        held = held_by_variables(leaves)
        loose = [t for _, t in held.values() if isinstance(t, Tensor) and t.is_leaf]
        if loose:
            self._tell_roots([], _named(loose), ())

    def _tell(self, parameters: Sequence[Tensor], optimizers: Sequence[Any]) -> Watching | None:
        known = [root for ref in self._roots if (root := ref()) is not None]
        wanted = {id(p) for p in parameters} - parameters_below(known)
        # a tensor that is no nn.Parameter stands in no module as a rule
        everywhere = any(isinstance(p, nn.Parameter) for p in parameters)
        roots = roots_of(wanted, known, everywhere=everywhere) if wanted else []
        loose = {id(p) for p in parameters} - parameters_below([*known, *roots])
        return self._tell_roots(
            roots, _named([p for p in parameters if id(p) in loose]), optimizers
        )

    def _tell_roots(
        self, roots: Sequence[nn.Module], loose: Mapping[str, Tensor], optimizers: Sequence[Any]
    ) -> Watching | None:
        room = MOST_ROOTS - len(self._roots)
        if len(roots) > room:
            said = f"more than {MOST_ROOTS} models are trained: those after them are not watched"
            self.limits = [said]
            roots = roots[:room]
        self._roots += [weakref.ref(root) for root in roots]
        names = names_of(roots)
        compiled: list[nn.Module | None] = []
        for ref in self._compiled:
            module = None if ref is None else ref()
            if ref is None or module is not None:
                compiled.append(module)
        self._watching = self._on_found(
            Found(
                tuple(roots),
                tuple(names.get(id(root)) for root in roots),
                loose,
                tuple(optimizers),
                tuple(compiled),
            )
        )
        return self._watching


def _parameters(optimizers: Sequence[Any]) -> list[Tensor]:
    return [
        p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
    ]


def _held(optimizer: Any) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)


def _named(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors by their names, without the object that holds them where that is clear."""
    names = names_of(tensors)
    named: dict[str, Tensor] = {}
    for number, tensor in enumerate(tensors):
        full = names.get(id(tensor), f"tensor{number}")
        short = full.rpartition(".")[2]
        name = full if short.isdigit() or short in named else short
        named[name if name not in named else f"{name}#{number}"] = tensor
    return named
