"""A look at the operations of an early step: activations, cuts of the graph, casts, losses.

``Examination`` is a function mode that hands every call on unchanged and returns what it returned.
It is meant for a few forwards at the start of a training, never for every step.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from gradscope.observe import private
from gradscope.observe.autograd.cuts import (
    COMPARING,
    cut_operation,
    function_name,
    half_cast,
    is_cast,
    may_cut,
)
from gradscope.observe.autograd.graph import leaves_behind
from gradscope.observe.autograd.operations import ACTIVATIONS
from gradscope.observe.autograd.unreached import Kind, Seen, Unreached, why_unreached
from gradscope.observe.frames import Site, caller, in_custom_function, whereabouts
from gradscope.observe.model.compiled import calls_compiled
from gradscope.observe.model.tables import shape_of
from gradscope.recording.facts import Activation

__all__ = ["Examination", "Seen", "Unreached", "why_unreached"]

_log = logging.getLogger("gradscope")

WALKS = 8
"""Walks over the graph for one line that cuts it; further calls of the line are only counted."""
NODES = 300_000
"""Nodes visited by all these walks together."""
LOSSES = frozenset({
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "ctc_loss", "poisson_nll_loss",
    "gaussian_nll_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss",
    "multilabel_margin_loss", "multilabel_soft_margin_loss", "soft_margin_loss",
    "cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
})  # fmt: skip
_ACTIVATION_MODULES = (
    nn.ReLU, nn.ReLU6, nn.Threshold, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Hardsigmoid, nn.Softplus, nn.LeakyReLU,
    nn.PReLU, nn.RReLU,
)  # fmt: skip
_FAST_PATH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
_ARITHMETIC = frozenset({"mul", "add", "sub", "rsub", "div", "true_divide", "matmul", "linear"})


@dataclass
class _Entry:
    module: weakref.ref[nn.Module] | None
    calls: int = 0
    walks: int = 0
    activation: Activation = Activation.UNKNOWN
    behind: set[int] = field(default_factory=set)
    detail: dict[str, Any] = field(default_factory=dict)


class Examination(TorchFunctionMode):
    """Records what ``facts.EXAMINED`` holds, as long as it is active.

    Use it as a context manager, or with ``start`` and ``stop`` from hooks: both may be called any
    number of times, in the thread that trains. Around a model that calls code of torch.compile it
    stays inactive, because compiled code is specialised on the modes around it.

    Attributes:
        active: whether calls are being recorded.
        failure: why it stopped recording by itself, or None.
    """

    def __init__(
        self,
        context: Callable[[], nn.Module | None] | None = None,
        ours: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make one.

        Args:
            context: gives the innermost running module; None finds it from Python's frames.
            ours: whether a call is made by a hook of gradscope's own, which cuts nothing.
        """
        super().__init__()
        self.active = False
        self.failure: str | None = None
        self._context = context
        self._ours = ours
        self._entered = False
        """Whether it stands on the stack of modes: after a failure it does, and is not active."""
        self._thread = 0
        self._entries: dict[tuple[Kind, str, int, Site | None], _Entry] = {}
        self._names: dict[Any, str] = {}
        self._used: set[int] = set()
        self._hard: dict[int, tuple[weakref.ref[Tensor], str, set[int]]] = {}
        self._nodes = self._comparisons = 0

    # ------------------------------------------------------------------ life

    def start(self, *roots: nn.Module) -> None:
        """Begin to record; does nothing when active, compiling or inside torch.func.

        Args:
            roots: the models about to run. A mode switches off the fused kernel that attention
                modules take in eval mode, whose last digits differ: with such a one below a root
                the examination stays inactive.
        """
        if self._entered or self.failure or private.is_compiling():
            return
        if private.compile_in_use() and (not roots or any(map(calls_compiled, roots))):
            return
        if private.functorch_level_active() or any(map(_takes_fast_path, roots)):
            return
        super().__enter__()
        self.active = self._entered = True
        self._thread = threading.get_ident()

    def stop(self) -> None:
        """Stop recording; a mode that the user's code has entered since stays as it is."""
        if not self._entered:
            return
        self.active = self._entered = False
        self._hard.clear()
        # another thread's stack cannot be reached; there the mode stays, and records nothing
        if threading.get_ident() == self._thread:
            private.remove_function_mode(self)

    def __enter__(self) -> Examination:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------ results

    @property
    def looked(self) -> bool:
        """Whether it has recorded at all, and has not failed."""
        return self._thread != 0 and self.failure is None

    def seen(self) -> list[Seen]:
        """What was recorded so far, in order of first sight."""
        return [
            Seen(
                kind,
                operation,
                None if entry.module is None else entry.module(),
                site,
                entry.calls,
                entry.activation,
                frozenset(entry.behind),
                dict(entry.detail),
            )
            for (kind, operation, _, site), entry in self._entries.items()
        ]

    def used(self, leaf: Tensor) -> bool:
        """Whether a leaf tensor was handed to any operation."""
        return id(leaf) in self._used

    # ------------------------------------------------------------------ the mode

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Hand the call on; look at it before and after."""
        if torch.compiler.is_compiling():  # becomes part of the compiled code: nothing
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        if not self.active or self._ours():
            return func(*args, **kwargs)
        before = self._safely(self._before, func, args, kwargs)
        result = func(*args, **kwargs)
        if before is not None:
            self._safely(self._after, before, args, kwargs, result)
        return result

    def _safely(self, look: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return look(*arguments)
        except Exception as error:  # a look must never stop the user's forward
            self.failure = f"{type(error).__name__}: {error}"
            self.active = False
            _log.warning("gradscope stopped examining operations: %s", self.failure)
            return None

    def _before(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Tensor | None, Tensor | Node | None] | None:
        """Name, first tensor, and where its graph begins if the call may cut it."""
        name = self._names.get(func)
        if name is None:
            name = self._names[func] = function_name(func)
        if not name:
            return None
        tensors = list(_tensors((*args, *kwargs.values())))
        self._note_leaves(name, tensors)
        first = next((t for t in tensors if t.requires_grad), tensors[0] if tensors else None)
        if first is None or not first.requires_grad or not may_cut(name):
            return name, first, None
        # detach_() takes the graph away: what lies behind has to be known before
        return name, first, first if first.grad_fn is None else first.grad_fn

    def _after(
        self,
        before: tuple[str, Tensor | None, Tensor | Node | None],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        name, first, start = before
        if name in ACTIVATIONS or name in ("clamp", "clamp_min"):
            self._activation(name, args, kwargs)
        elif name in LOSSES:
            self._loss(name, args, kwargs)
        elif self._hard and (name in _ARITHMETIC or is_cast(name)):
            self._truth_as_number(args, result)
        if first is None:
            return
        if (dtype := half_cast(name, first, result)) is not None:
            self._entry("cast", dtype).detail["from"] = str(first.dtype).removeprefix("torch.")
        if start is None:
            return
        if name in COMPARING:
            if isinstance(result, Tensor) and self._comparisons < WALKS * 100:
                self._comparisons += 1
                self._hard[id(result)] = weakref.ref(result), name, self._walk(start)
            return
        operation = cut_operation(name, result)
        if operation is not None:
            entry = self._entry("cut", operation)
            if entry.walks < WALKS:
                entry.walks += 1
                entry.behind |= self._walk(start)

    def _note_leaves(self, name: str, tensors: list[Tensor]) -> None:
        leaves = [t for t in tensors if t.requires_grad and t.is_leaf]
        if not leaves:
            return
        self._used.update(map(id, leaves))
        # a custom Function's forward runs without grad by design, and so does a checkpoint's
        if not torch.is_grad_enabled() and not in_custom_function():
            self._entry("no-grad", name).behind.update(map(id, leaves))

    def _activation(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name.startswith("clamp"):
            low = kwargs.get("min", args[1] if len(args) > 1 else None)
            high = kwargs.get("max", args[2] if len(args) > 2 else None)
            if isinstance(low, Tensor) or low != 0 or high is not None:
                return
        module, site = self._where()
        if isinstance(module, _ACTIVATION_MODULES) or (module is None and name.startswith("clamp")):
            return
        entry = self._entry("activation", name, (module, site))
        entry.activation = ACTIVATIONS.get(name, Activation.RELU)

    def _loss(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entry = self._entry("loss", name)
        for role, position in (("input", 0), ("target", 1)):
            tensor = args[position] if len(args) > position else kwargs.get(role)
            if isinstance(tensor, Tensor):
                entry.detail[f"{role}_shape"] = shape_of(tensor)
                entry.detail[f"{role}_dtype"] = str(tensor.dtype).removeprefix("torch.")
        made = args[0].grad_fn if args and isinstance(args[0], Tensor) else None
        entry.detail["input_operation"] = None if made is None else made.name()
        entry.detail["reduction"] = kwargs.get("reduction", "mean")

    def _truth_as_number(self, args: tuple[Any, ...], result: Any) -> None:
        if not isinstance(result, Tensor) or not result.dtype.is_floating_point:
            return
        for tensor in _tensors(args):
            known = self._hard.get(id(tensor))
            if known is not None and known[0]() is tensor:
                self._entry("cut", known[1]).behind |= known[2]

    # ------------------------------------------------------------------ helpers

    def _where(self) -> tuple[nn.Module | None, Site | None]:
        if self._context is not None:
            return self._context(), caller()
        here = whereabouts()
        return here.module, here.site

    def _entry(
        self,
        kind: Kind,
        operation: str,
        where: tuple[nn.Module | None, Site | None] | None = None,
    ) -> _Entry:
        module, site = where or self._where()
        key = kind, operation, id(module), site
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(None if module is None else weakref.ref(module))
        entry.calls += 1
        return entry

    def _walk(self, start: Tensor | Node) -> set[int]:
        if self._nodes >= NODES:
            return set()
        leaves, visited = leaves_behind(start, NODES - self._nodes)
        self._nodes += visited
        return set(leaves)


def _takes_fast_path(root: nn.Module) -> bool:
    return any(isinstance(m, _FAST_PATH) and not m.training for m in root.modules())


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among arguments, those in lists and tuples included (torch.cat, an RNN's weights)."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))
