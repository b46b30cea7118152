"""Function modes that run the user's code as it would be with one thing changed.

``Widened`` computes in double precision wherever the code asks for less; ``Undetached`` takes out
what cuts the graph. Both answer "is it this?" by running once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradscope.observe.autograd.cuts import function_name
from gradscope.observe.callsite import user_site

_WIDER = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_CASTS = frozenset({"float", "half", "bfloat16"})


def wide(dtype: torch.dtype) -> torch.dtype:
    """The double-precision dtype of the same kind; itself for whole numbers and the like."""
    return _WIDER.get(dtype, dtype)


class Widened(TorchFunctionMode):
    """Every cast and factory that asks for a smaller format gives double precision instead."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _CASTS and args and isinstance(args[0], Tensor):
            return args[0].to(torch.float64)
        if any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
            args = tuple(wide(a) if isinstance(a, torch.dtype) else a for a in args)
            kwargs = {k: wide(v) if isinstance(v, torch.dtype) else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


class Undetached(TorchFunctionMode):
    """``detach``, ``data`` and ``no_grad`` do nothing; where they were is remembered.

    Attributes:
        cuts: operation, file and line of each that would have cut something, each once.
        minuends: of each cut of a difference, ``(q - x).detach()``, the value of ``q``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cuts: dict[tuple[str, str, int], None] = {}
        self.minuends: list[Tensor] = []
        self._differences: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function_name(func)
        if name in ("detach", "data") and args and isinstance(args[0], Tensor):
            tensor = args[0]
            if tensor.requires_grad and not (name == "data" and tensor.is_leaf):
                self._note(name)
                self.minuends += [q.detach() for d, q in self._differences if d is tensor]
                return tensor.view_as(tensor)
        if getattr(func, "__name__", "") == "_set_grad_enabled" and args and args[0] is False:
            self._note("no_grad")
            return None
        result = func(*args, **(kwargs or {}))
        if name in ("sub", "subtract") and args and isinstance(args[0], Tensor):
            # held until the mode is gone, so that an identity cannot come back
            self._differences.append((result, args[0]))
        return result

    def _note(self, operation: str) -> None:
        site = user_site()
        if site is not None and torch.is_grad_enabled():
            self.cuts[operation, *site] = None
