"""Finds the operation that made the first NaN or Inf that a result depends on.

A value is *born* where an operation's output is not finite while no tensor and no scalar that it
was given was. Many are born and do no harm (the branch that ``where`` does not take), so each
non-finite tensor is traced to its birth, and the birth that the loss or a gradient goes back to is
the origin. Infinities that the program writes as constants (a mask of -inf) are no births; a NaN
that an operation makes of them (softmax over a row of -inf) is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from gradscope.observe import private
from gradscope.observe.autograd.operations import aten_operation, node_operation
from gradscope.observe.birth.finite import Batch, bad_samples, state_of
from gradscope.observe.birth.operands import Operand, described
from gradscope.observe.frames import Site, Whereabouts, whereabouts
from gradscope.observe.private_modules import DispatchMode, tree_leaves

Phase = Literal["forward", "backward", "input", "parameter"]

_UNINITIALISED = frozenset({
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
    "empty_quantized", "resize", "set", "efficientzerotensor",
})  # fmt: skip
_LIFTED = frozenset({"lift_fresh", "lift"})
"""A tensor made of Python numbers: ``torch.tensor(float("nan"))``."""
_MASKED = frozenset({
    "softmax", "log_softmax", "safe_softmax", "logsumexp", "masked_softmax",
    "scaled_dot_product_attention_math", "scaled_dot_product_flash_attention_for_cpu",
    "scaled_dot_product_flash_attention", "scaled_dot_product_efficient_attention",
})  # fmt: skip
"""Operations that masks of -inf are made for."""


_COLLECTIVE = frozenset({"c10d", "c10d_functional", "_c10d_functional"})
_DESCRIBED = 200
"""Births whose values are described; many are harmless, and each costs some reads."""


@dataclass(frozen=True)
class Origin:
    """Where the first NaN or Inf came from.

    Attributes:
        operation: ATen name without namespace, for a backward birth that of its forward
            operation; None where no operation is to blame or none was found.
        phase: ``forward``, ``backward``, ``input``, ``parameter``; None: not found.
        module: innermost module that was running; None: outside modules, or not known.
        site: the user's forward line (in the backward of a custom Function the line in it), or
            None.
        samples: indices along axis 0 of the batch that hold it; empty: not known.
        reason: one sentence.
        parameter: the parameter that holds it, or None.
        node: sequence number of the autograd node, -1: not known; the observer can map it to a
            module where ``module`` is None.
        operands: values and shapes of what went in and came out, see ``operands``.
        outside: it is known that no module ran: the loss code.
    """

    operation: str | None
    phase: Phase | None
    module: nn.Module | None
    site: Site | None
    samples: tuple[int, ...]
    reason: str
    parameter: Tensor | None = None
    node: int = -1
    operands: tuple[Operand, ...] = ()
    outside: bool = False

    @classmethod
    def unknown(cls, reason: str) -> Origin:
        """Nothing was found, and why."""
        return cls(None, None, None, None, (), reason)

    def because(self, further: str) -> Origin:
        """This origin with a further reason."""
        return replace(self, reason=f"{self.reason}; {further}") if further else self


@dataclass(frozen=True)
class _Given:
    """A non-finite input: 1 for Inf, 2 for NaN; the tensor, or None for a scalar; its source."""

    state: int
    tensor: Tensor | None
    source: Source | None


@dataclass(frozen=True)
class Source:
    """A non-finite value's first appearance; ``constant``: written so by the program."""

    origin: Origin
    order: int
    constant: bool = False


class CollectiveError(RuntimeError):
    """The forward asks the other ranks for something."""


class BirthWatch(DispatchMode):
    """Traces non-finite values through everything that runs under it, forward and backward.

    Each floating output costs one read and one synchronisation: it is for a replay.

    Attributes:
        failure: why an operation could not be looked at, or None.
    """

    def __init__(
        self,
        *,
        batch: Batch | int | None = None,
        fallback: Site | None = None,
        boundary: str | None = None,
        alone: bool = False,
    ) -> None:
        """Make one.

        Args:
            batch: how samples lie in a batch, or its length; None: not known.
            fallback: line to report for operations of torch's own modules that no line of the
                user's stands above.
            boundary: file of gradscope that runs the user's code: frames beyond it do not count.
            alone: only this process runs it again: a collective would wait for the others for
                ever, and raises ``CollectiveError`` instead.
        """
        super().__init__()
        self.failure: str | None = None
        self._batch = batch
        self._fallback = fallback
        self._boundary = boundary
        self._alone = alone
        self._described = 0
        self._sources: dict[int, Source] = {}
        self._blank: set[int] = set()
        """Memory that nothing has been written to yet: what it holds means nothing."""
        self._made: dict[int, Whereabouts] = {}
        """Where each autograd node's operation was called, by sequence number."""

    # ------------------------------------------------------------------ what is known before

    def declare(
        self,
        tensors: Iterable[Tensor],
        phase: Phase,
        *,
        module: nn.Module | None = None,
        name: str = "",
        mask: bool = False,
    ) -> None:
        """Say where tensors that exist before come from.

        Args:
            tensors: inputs, parameters or buffers.
            phase: ``input`` or ``parameter``.
            module: module that owns them, or None.
            name: their name, for the reason.
            mask: nothing but -inf beside finite numbers is a mask, not a fault.
        """
        for tensor in tensors:
            state = state_of(tensor)
            if not state:
                continue
            only_masks = mask and state == 1 and not bool((tensor == math.inf).any())
            kind = "NaN" if state == 2 else "Inf"
            noun = "input" if phase == "input" else f"parameter or buffer {name}".strip()
            origin = Origin(
                None,
                phase,
                module,
                self._fallback if phase == "input" else None,
                bad_samples(tensor, self._batch) if phase == "input" else (),
                f"the {noun} holds {kind} before any operation",
                parameter=tensor if phase == "parameter" else None,
            )
            self._set(tensor, Source(origin, len(self._sources), constant=only_masks))

    # ------------------------------------------------------------------ results

    def origin_of(self, tensors: Iterable[Tensor]) -> Origin | None:
        """Origin of the first non-finite one of some results; None where all are finite."""
        for tensor in tensors:
            if state_of(tensor):
                source = self._source(tensor)
                if source is not None:
                    return source.origin
                return Origin(
                    None, None, None, None, bad_samples(tensor, self._batch),
                    "a result is not finite, and where it became so was not seen",
                )  # fmt: skip
        return None

    # ------------------------------------------------------------------ the mode

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; compare its inputs and outputs."""
        kwargs = kwargs or {}
        if self._alone and func.namespace in _COLLECTIVE:
            raise CollectiveError(func._schema.name)
        # what an in-place operation is given has to be looked at before it is gone
        inputs = self._inputs(args, kwargs) if func._schema.is_mutable else None
        result = func(*args, **kwargs)
        try:
            with torch.no_grad():
                self._look(func, args, kwargs, inputs, result)
        except Exception as error:  # a replay must end, with or without an answer
            self.failure = f"{func}: {type(error).__name__}: {error}"
        return result

    def _look(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[_Given] | None,
        result: Any,
    ) -> None:
        node = private.current_node()
        number = private.sequence_nr() - 1
        if node is None and number not in self._made:
            # autograd has numbered the node of this operation just before
            self._made[number] = whereabouts(boundary=self._boundary)
        operation = aten_operation(func._schema.name)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        outputs += [t for t in _written(func, args, kwargs) if not any(t is o for o in outputs)]
        if operation in _UNINITIALISED:
            self._blank.update(map(_memory, outputs))
            return
        for output in outputs:
            state = state_of(output)
            if state and inputs is None:
                inputs = self._inputs(args, kwargs)
            if state and inputs is not None:
                source = self._judge(operation, inputs, state, output, node, args)
                self._set(output, source)
            self._blank.discard(_memory(output))

    def _judge(
        self,
        operation: str,
        inputs: list[_Given],
        state: int,
        output: Tensor,
        node: Any,
        args: tuple[Any, ...],
    ) -> Source:
        made_nan = state == 2 and all(given.state < 2 for given in inputs)
        for given in inputs:
            if given.source is None and given.tensor is not None and given.state == 2:
                self._unknown(operation, given.tensor)
        sources = [
            source for given in inputs if (source := given.source or self._of(given)) is not None
        ]
        guilty = [source for source in sources if not source.constant]
        if guilty:
            return min(guilty, key=lambda source: source.order)
        data = next((source for source in sources if source.origin.phase == "input"), None)
        if data is not None and made_nan and operation not in _MASKED:
            # an infinity of the data itself, not one of a mask
            return Source(data.origin, data.order)
        if sources and not made_nan:
            return sources[0]
        constant = bool(inputs) and not made_nan
        origin = self._birth(operation, output, state, node, constant, bool(inputs), args)
        # a NaN that the program writes is what went wrong; an infinity may be a mask
        return Source(origin, len(self._sources), constant=constant and state == 1)

    def _unknown(self, operation: str, tensor: Tensor) -> None:
        """A NaN in a tensor that no operation seen here has made and that nobody has declared."""
        if operation in _LIFTED:
            return
        origin = Origin(
            None, "input", None, whereabouts(boundary=self._boundary).site or self._fallback,
            bad_samples(tensor, self._batch), "a tensor made before the forward holds NaN",
        )  # fmt: skip
        self._set(tensor, Source(origin, len(self._sources)))

    def _of(self, given: _Given) -> Source | None:
        return None if given.tensor is None else self._source(given.tensor)

    def _birth(
        self,
        operation: str,
        output: Tensor,
        state: int,
        node: Any,
        constant: bool,
        of_inf: bool,
        args: tuple[Any, ...],
    ) -> Origin:
        kind = "NaN" if state == 2 else "Inf"
        here = whereabouts(boundary=self._boundary)
        number = -1 if node is None else private.node_sequence_nr(node)
        phase: Phase = "forward"
        site, module = here.site, here.module
        if node is not None and not here.recomputed:
            phase = "backward"
            forward = self._made.get(number)
            site, module = (None, None) if forward is None else (forward.site, forward.module)
            if isinstance(node, BackwardCFunction) and here.custom_backward:
                site = here.site
            inner, operation = operation, _forward_name(node, operation)
            how = f"the backward of {operation} gave {kind} (in {inner})"
        elif constant:
            operation = "tensor" if operation in _LIFTED else operation
            how = f"{operation} wrote a constant {kind}"
        else:
            given = "its inputs held no NaN but infinities" if of_inf else "its inputs were finite"
            how = f"{operation} gave {kind} while {given}"
        return Origin(
            operation,
            phase,
            module,
            site or self._fallback,
            # what a NaN was made of may have been infinities all over
            bad_samples(output, self._batch, nan_only=of_inf and state == 2),
            how,
            node=number,
            operands=self._operands(operation, phase, node, args, output),
            outside=module is None and (phase == "forward" or number in self._made),
        )

    def _operands(
        self, operation: str, phase: Phase, node: Any, args: tuple[Any, ...], output: Tensor
    ) -> tuple[Operand, ...]:
        self._described += 1
        if self._described > _DESCRIBED:
            return ()
        inputs = [t for t in tree_leaves(args) if t is not output]
        if phase == "backward":
            # what the forward operation read and made tells more than the gradients do
            saved = [private.saved(node, name) for name in ("self", "result", "other")]
            inputs = [t for t in saved if isinstance(t, Tensor)] or inputs
        return tuple(described(inputs, output))

    # ------------------------------------------------------------------ helpers

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Given]:
        found = []
        for leaf in tree_leaves((args, kwargs)):
            state = state_of(leaf)
            if not state:
                continue
            if not isinstance(leaf, Tensor):
                found.append(_Given(state, None, None))
            elif _memory(leaf) not in self._blank:
                found.append(_Given(state, leaf, self._source(leaf)))
        return found

    def _source(self, tensor: Tensor) -> Source | None:
        return self._sources.get(_memory(tensor))

    def _set(self, tensor: Tensor, source: Source) -> None:
        self._sources[_memory(tensor)] = source


def _memory(tensor: Tensor) -> int:
    """Where a tensor's numbers lie: views and autograd's unpacked copies share it."""
    dense = tensor._values() if tensor.is_sparse else tensor
    return dense.untyped_storage().data_ptr()


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Tensors that an operation changes in place or fills as ``out=``."""
    if not func._schema.is_mutable:
        return
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[position] if position < len(args) else kwargs.get(argument.name)
        yield from (t for t in tree_leaves(given) if isinstance(t, Tensor))


def _forward_name(node: Any, operation: str) -> str:
    name = node_operation(node.name())
    return operation if name in ("accumulate_grad", "graph_root") else name
