"""What the loss code calls between a root's forward and ``backward``: operations with their lines.

The loss code is the user's own, cannot be called again, and often has no graph (a target's
logarithm). So the few functions that it calls are noted as they run, with what they were given and
what they made; nothing is read until an alarm asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradscope.observe import private
from gradscope.observe.birth.births import BirthWatch, Origin
from gradscope.observe.birth.finite import Batch, bad_samples, state_of
from gradscope.observe.birth.operands import described
from gradscope.observe.frames import Site, caller
from gradscope.observe.reading.containers import tensors_in

CALLS = 96
"""Calls that are noted in one step; a loss makes 1 to 30."""
ELEMENTS = 2**22
"""Elements that are kept alive until the update: 16 MiB of float32."""
_KINDS = ("finite numbers", "Inf", "NaN")
_IGNORED = frozenset({"__get__", "__set__", "detach", "backward", "size", "dim", "item"})


class _Call:
    """One call of a torch function."""

    __slots__ = ("args", "first", "func", "kwargs", "last", "result", "site", "versions")

    def __init__(
        self, func: Any, args: Any, kwargs: Any, result: Any, site: Site | None,
        first: int, last: int,
    ) -> None:  # fmt: skip
        self.func, self.args, self.kwargs, self.result = func, args, kwargs, result
        self.site, self.first, self.last = site, first, last
        self.versions = [private.version(t) for t in self.tensors() if not t.is_inference()]

    def tensors(self) -> list[Tensor]:
        return tensors_in((self.args, self.kwargs))

    def changed(self) -> bool:
        return self.versions != [private.version(t) for t in self.tensors() if not t.is_inference()]


class LossCode(TorchFunctionMode):
    """Notes what runs between a root's forward and backward.

    It is entered only where no other function mode is: one that lies below ours would be left in
    our place.
    """

    def __init__(self, ours: Callable[[], bool] = lambda: False) -> None:
        """Make one; ``ours`` tells whether a callback of gradscope's runs now."""
        super().__init__()
        self._ours = ours
        self._entered = self._noting = False
        self._calls: list[_Call] = []
        self._elements = 0

    def clear(self) -> None:
        """A step begins: forget the one before."""
        self.leave()
        self._calls, self._elements = [], 0

    def begin(self) -> None:
        """A root's forward has ended: what runs now is loss code."""
        if not self._entered:
            if private.function_modes() != 0 or private.compile_in_use():
                return
            self._entered = True
            self.__enter__()
        self._noting = True

    def leave(self) -> None:
        """Backward, or another forward, begins."""
        self._noting = False
        if self._entered:
            # while it hands on a call, backward itself for one, torch has taken it off for a moment
            # and will put it back: then it leaves at the next occasion
            self._entered = not private.remove_function_mode(self)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function; note it."""
        if torch.compiler.is_compiling() or not self._noting or self._ours():
            return func(*args, **(kwargs or {}))
        first = private.sequence_nr()
        result = func(*args, **(kwargs or {}))
        if (
            len(self._calls) < CALLS
            and self._elements < ELEMENTS
            and getattr(func, "__name__", "") not in _IGNORED
            and torch.is_grad_enabled()
        ):
            self._note(func, args, kwargs or {}, result, first)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any, first: int) -> None:
        try:
            made = [_bare(t) for t in (result if isinstance(result, (tuple, list)) else (result,))]
            if not any(isinstance(t, Tensor) for t in made):
                return
            given = tuple([_bare(a) for a in args])
            named = {name: _bare(a) for name, a in kwargs.items()}
            self._elements += sum(
                [t.numel() for t in (*made, *given, *named.values()) if isinstance(t, Tensor)]
            )
            last = private.sequence_nr()
            self._calls.append(_Call(func, given, named, made, caller(2), first, last))
        except Exception:
            self._elements = ELEMENTS  # an unusual argument ends the noting, not the user's loss

    # ------------------------------------------------------------------ an alarm asks

    def completed(self, found: Origin, bad: Tensor) -> Origin:
        """A birth in the backward of a node that was made here, with its line and values."""
        call = next((c for c in self._calls if c.first <= found.node < c.last), None)
        if call is None:
            return found
        operands = () if call.changed() else tuple(described(call.tensors(), bad))
        return replace(found, site=call.site, operands=operands)

    @torch.no_grad()
    def origin(self, batch: Batch | None) -> Origin | None:
        """The first call that made a NaN or Inf of finite values, or was given one from outside."""
        made: set[int] = set()
        for call in self._calls:
            bad_in = [t for t in call.tensors() if state_of(t)]
            bad_out = [t for t in call.result if isinstance(t, Tensor) and state_of(t)]
            foreign = [t for t in bad_in if _address(t) not in made and not _mask(t)]
            made.update(_address(t) for t in call.result if isinstance(t, Tensor))
            if call.changed() or not bad_out or _constant(call, bad_out):
                continue
            if foreign:
                return self._given(call, foreign[0], batch)
            masks = all(map(_mask, bad_in))
            if bad_in and masks and all(map(_mask, bad_out)):
                continue  # a mask is handed on
            if masks:
                found = self._again(call, batch)
                if found is not None:
                    return found
        return None

    def _given(self, call: _Call, bad: Tensor, batch: Batch | None) -> Origin:
        name = getattr(call.func, "__name__", "an operation").strip("_")
        kind = "NaN" if state_of(bad) == 2 else "Inf"
        return Origin(
            None, "input", None, call.site, bad_samples(bad, batch),
            f"{name} in the loss code was given a tensor that already held {kind}: the data",
            operands=tuple(described((), bad)), outside=True,
        )  # fmt: skip

    def _again(self, call: _Call, batch: Batch | None) -> Origin | None:
        watch = BirthWatch(batch=batch, fallback=call.site, alone=True)
        try:
            with watch:
                result = call.func(*call.args, **call.kwargs)
        except Exception:  # what was noted is not enough to call it again
            result = None
        found = watch.origin_of(tensors_in(result))
        if found is None or found.operation is None:
            name = str(getattr(call.func, "__name__", "")).strip("_")
            bad = next(t for t in call.result if isinstance(t, Tensor) and state_of(t))
            found = Origin(
                name, "forward", None, call.site, bad_samples(bad, batch),
                f"{name} gave {_KINDS[state_of(bad)]} while its inputs were finite",
                operands=tuple(described(call.tensors(), bad)),
            )  # fmt: skip
        return replace(found, module=None, site=call.site, outside=True, node=call.first)


def _bare(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _mask(tensor: Tensor) -> bool:
    """Nothing but -inf beside finite numbers: written so, and meant."""
    return state_of(tensor) == 1 and not bool((tensor == torch.inf).any())


def _constant(call: _Call, bad: list[Tensor]) -> bool:
    """Whether the call only wrote an infinity that stands in the program: masked_fill(-inf)."""
    scalars = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, float)]
    return any(map(state_of, scalars)) and all(map(_mask, bad))
