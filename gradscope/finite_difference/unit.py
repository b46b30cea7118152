"""A piece of a model as a function of tensors: evaluated near its point, and differentiated.

A unit is one call of one module (or of one custom Function) with what it was given. Its *leaves*
are the tensors whose derivatives are checked. Each evaluation begins from the same state, with
fresh copies of all arguments, and records a graph even where none is needed: code may take another
path without one.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from gradscope.observe.experiment.frozen import Frozen
from gradscope.observe.experiment.function_capture import BackwardUnder
from gradscope.observe.experiment.probes import Widened
from gradscope.observe.reading.nested import dense, differentiable, kept, mapped, span, tensors


class Beginning(Protocol):
    """Something that is told when an evaluation begins: a replacement of modules or Functions."""

    def begin(self) -> None:
        """A new evaluation begins."""


class UnstableError(Exception):
    """The unit gave results of other shapes when its inputs moved a little."""


@dataclass(eq=False)
class Leaf:
    """A tensor with respect to which a unit is differentiated.

    Attributes:
        name: ``input 0``, ``input mask``, ``weight``.
        base: its value at the point: for an input with gaps or overlaps the memory it spans, 1-D.
        parameter: the parameter itself, None for an input.
        shape, stride: of the input as the unit sees it; None for a parameter.
        own: an input or a parameter of this very module, not of one that it calls.
        asked: it required grad in the user's own pass; if not, a missing gradient is no fault.
        scale: root mean square of its finite elements, 1 where that is 0.
        finite: all of its elements are.
        still: a row that gets no gradient by agreement (padding), and so is not moved; None: none.
        home: its value when the leaf was made; ``away`` tells that the parameter has another now.
    """

    name: str
    base: Tensor
    parameter: Tensor | None = None
    shape: torch.Size | None = None
    stride: tuple[int, ...] | None = None
    own: bool = True
    asked: bool = True
    scale: float = 1.0
    away: bool = False
    home: Tensor = field(init=False)
    still: int | None = None
    finite: bool = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.base
        count = self.base.numel()
        norm = float(torch.linalg.vector_norm(self.base.reshape(-1))) if count else 0.0
        self.finite = math.isfinite(norm)
        if not self.finite:
            inside = self.base[torch.isfinite(self.base)]
            count, norm = inside.numel(), float(torch.linalg.vector_norm(inside))
        rms = norm / math.sqrt(max(count, 1))
        # of a denormal nothing can be a small part
        self.scale = rms if math.isfinite(rms) and rms > 1e-30 else 1.0

    @property
    def strided(self) -> bool:
        """Whether ``base`` is the memory below the input and not the input."""
        return self.shape is not None

    def index(self, flat: int) -> list[int]:
        """Where element ``flat`` of ``base`` stands, as an index of the tensor where it has one."""
        if self.strided:
            return [flat]
        return [int(i) for i in torch.unravel_index(torch.tensor(flat), self.base.shape)]


Moves = Mapping[Leaf, Tensor]
"""A direction: for each leaf that moves a tensor like its ``base``."""


@dataclass(eq=False)
class Unit:
    """One function to check.

    Attributes:
        name: qualified name of the module.
        call: from args and kwargs to the result.
        args, kwargs: what it was given; never handed out themselves.
        leaves: see ``Leaf``.
        state: the state at the entry.
        epsilon: relative rounding of its arithmetic.
        widened: run under ``Widened``.
        told: what is told of each evaluation's beginning.
        probe: entered around the user's code and nothing else.
        by_backward: gradients are taken with ``backward()``, as the unit allows nothing else.
        refused: what the code raised at a moved point, the last time it did.
        evaluations: how many were made.
    """

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Leaf]
    state: Frozen
    epsilon: float = 2.0**-52
    widened: bool = False
    told: Sequence[Beginning] = ()
    probe: contextlib.AbstractContextManager[Any] | None = None
    by_backward: bool = False
    refused: Exception | None = None
    evaluations: int = 0
    chosen: list[int] = field(default_factory=list)
    by_path: dict[str, Leaf] = field(default_factory=dict)

    def outputs(self, moves: Moves | None = None, step: float = 0.0) -> list[Tensor]:
        """The results at the point plus ``step`` times ``moves``, without a graph."""
        try:
            results, _ = self._run(moves or {}, step)
            return [result.detach() for result in results]
        finally:
            self._home()

    def gradient(
        self, cotangent: Callable[[list[Tensor]], list[Tensor]], *, create_graph: bool = False
    ) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
        """Results, the gradients of all leaves, and the cotangents they were taken with.

        A gradient is None where no graph leads to the leaf.
        """
        try:
            return self._gradient(cotangent, create_graph=create_graph)
        except RuntimeError as error:
            if self.by_backward or "heckpoint" not in str(error) or "compatible" not in str(error):
                raise
        # reentrant checkpointing works with backward() alone
        self.by_backward = True
        return self._gradient(cotangent, create_graph=create_graph)

    def _gradient(
        self, cotangent: Callable[[list[Tensor]], list[Tensor]], *, create_graph: bool
    ) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
        try:
            results, inputs = self._run({}, 0.0)
            values = [result.detach() for result in results]
            weights = cotangent(values)
            pairs = [(r, w) for r, w in zip(results, weights, strict=True) if r.requires_grad]
            if not pairs or not inputs:
                return values, [None] * len(inputs), weights
            with self._modes():
                total = sum((_weighted(r, w) for r, w in pairs), torch.zeros(()))
                grads = _vjp(total, inputs, create_graph, by_backward=self.by_backward)
        finally:
            self._home()
        found = [None if g is None else g.to_dense() if g.is_sparse else g for g in grads]
        if not create_graph:
            found = [None if g is None else g.detach() for g in found]
        return values, found, weights

    def choose_outputs(self, *, every: bool = False) -> list[Tensor]:
        """Decide which results count, by one evaluation; gives their values.

        All that carry a graph. Where none does, or with ``every``, all that could: a gradient that
        is missing there is blocked.
        """
        self.chosen = []
        try:
            found, _ = self._run({}, 0.0)
        finally:
            self._home()
        carrying = [i for i, t in enumerate(found) if t.requires_grad]
        self.chosen = carrying if carrying and not every else list(range(len(found)))
        return [found[i].detach() for i in self.chosen]

    def graph(self) -> list[Tensor]:
        """The results at the point with their graph, to look at and not to differentiate."""
        try:
            return self._run({}, 0.0)[0]
        finally:
            self._home()

    def moved(self, shift: Moves) -> None:
        """Move the point itself."""
        for leaf, by in shift.items():
            leaf.base = leaf.base + by

    @contextlib.contextmanager
    def elsewhere(self, shift: Moves) -> Iterator[None]:
        """The point moved by ``shift`` for a while."""
        before = {leaf: leaf.base for leaf in shift}
        self.moved(shift)
        try:
            yield
        finally:
            for leaf, base in before.items():
                leaf.base = base

    def generator(self, seed: int, number: int) -> torch.Generator:
        """The random numbers of direction ``number``: of its own for each unit."""
        mixed = zlib.crc32(f"{seed}/{self.name}/{number}".encode())
        return torch.Generator().manual_seed(mixed)

    # ------------------------------------------------------------------ one evaluation

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        default = torch.get_default_dtype()
        with contextlib.ExitStack() as stack:
            if self.epsilon < 1e-12:
                torch.set_default_dtype(torch.float64)
                stack.callback(torch.set_default_dtype, default)
            if self.widened:
                stack.enter_context(Widened())
                stack.enter_context(BackwardUnder(Widened))
            stack.enter_context(torch.enable_grad())
            yield

    def _run(self, moves: Moves, step: float) -> tuple[list[Tensor], list[Tensor]]:
        self.evaluations += 1
        self.state.restore()
        for told in self.told:
            told.begin()
        inputs: list[Tensor] = []
        given: dict[str, Tensor] = {}
        for leaf in self.leaves:
            value = leaf.base + step * moves[leaf] if leaf in moves else leaf.base
            if leaf.parameter is not None:
                if value is not leaf.home:
                    # through .data: the user's graph must not see it
                    leaf.parameter.data.copy_(value)
                    leaf.away = True
                inputs.append(leaf.parameter)
            else:
                # empty_like keeps the order of the axes in memory, which a sum may lose
                source = torch.empty_like(leaf.base).copy_(value).requires_grad_(True)
                inputs.append(source)
                given[leaf.name] = source
        args, kwargs = self._arguments(given)
        with self._modes():
            with self.probe or contextlib.nullcontext():
                output = self.call(*args, **kwargs)
            found = [t for _, t in tensors(output) if differentiable(t)]
        if self.chosen:
            if len(found) <= self.chosen[-1]:
                raise UnstableError("its number of results changed when its inputs moved a little")
            found = [found[i] for i in self.chosen]
        return found, inputs

    def _home(self) -> None:
        """Give moved parameters their own values back: other units use them, too."""
        for leaf in self.leaves:
            if leaf.parameter is not None and leaf.away:
                leaf.parameter.data.copy_(leaf.home)
                leaf.away = False

    def _arguments(self, given: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        copies: dict[int, Tensor] = {}
        own = {id(leaf.parameter) for leaf in self.leaves if leaf.parameter is not None}
        sources = {id(t): p for p, t in tensors((self.args, self.kwargs))}

        def fresh(tensor: Tensor) -> Tensor:
            if id(tensor) in own:
                return tensor
            if id(tensor) in copies:
                return copies[id(tensor)]
            leaf = self.by_path.get(sources[id(tensor)])
            if leaf is None:
                new = kept(tensor)
            else:
                # never a leaf itself: the unit may change it in place
                new = given[leaf.name].clone(memory_format=torch.preserve_format)
                if leaf.shape is not None and leaf.stride is not None:
                    new = new.as_strided(leaf.shape, leaf.stride)
            copies[id(tensor)] = new
            return new

        args, kwargs = mapped((self.args, self.kwargs), fresh)
        return args, kwargs


def input_leaf(name: str, tensor: Tensor, *, asked: bool = True) -> Leaf:
    """A leaf for a tensor that a unit is given."""
    if dense(tensor):
        return Leaf(name, tensor.detach().clone(memory_format=torch.preserve_format), asked=asked)
    return Leaf(name, span(tensor), shape=tensor.shape, stride=tuple(tensor.stride()), asked=asked)


def _vjp(
    total: Tensor, inputs: list[Tensor], create_graph: bool, *, by_backward: bool
) -> list[Tensor | None]:
    """Gradients of a weighted sum of results.

    The sum and not ``grad_outputs``: with these torch imports sympy, which takes seconds.
    """
    if not by_backward:
        return list(
            torch.autograd.grad(total, inputs, allow_unused=True, create_graph=create_graph)
        )
    before = [t.grad for t in inputs]
    for tensor in inputs:
        tensor.grad = None
    try:
        torch.autograd.backward(total, create_graph=create_graph)
        return [t.grad for t in inputs]
    finally:
        for tensor, grad in zip(inputs, before, strict=True):
            tensor.grad = grad


def _weighted(result: Tensor, weight: Tensor) -> Tensor:
    """Real inner product, in the widest format of the two."""
    if result.is_complex() or weight.is_complex():
        return (result * weight.conj()).real.sum()
    return (result * weight).sum()
