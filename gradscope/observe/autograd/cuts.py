"""Calls that end a gradient's way, told by the function that is called and what it is given."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from gradscope.observe.autograd.operations import ZERO_GRADIENT

Reason = Literal["detached", "integer", "other"]

DETACHING = frozenset({"detach", "data", "item", "tolist", "numpy", "float", "int", "tensor"})
"""Hands on the numbers without their graph."""
READING = frozenset({"item", "tolist", "numpy", "float", "int"})
"""Gives Python numbers: as a rule a log or a metric, so any other cut explains more."""
SELECTING = frozenset({
    "argmax", "argmin", "argsort", "multinomial", "nonzero", "bucketize", "searchsorted",
})  # fmt: skip
"""Gives indices, which have no derivative."""
COMPARING = frozenset({"gt", "lt", "ge", "le", "eq", "ne", "isclose", "logical_not"})
"""Gives truth values; a cut only where they are used as numbers."""

_ALIASES = {
    "__float__": "float", "__int__": "int", "__index__": "int", "__array__": "numpy",
    "__gt__": "gt", "__lt__": "lt", "__ge__": "ge", "__le__": "le", "__eq__": "eq", "__ne__": "ne",
    "greater": "gt", "less": "lt", "greater_equal": "ge", "less_equal": "le", "not_equal": "ne",
    "new_tensor": "tensor", "fix": "trunc",
}  # fmt: skip
_CASTS = frozenset({
    "to", "type", "type_as", "half", "bfloat16", "float", "double", "long", "int", "short", "char",
    "byte", "bool",
})  # fmt: skip
_UNNAMED = frozenset({"to", "type", "type_as", "int"})
"""Casts whose cut is called by its dtype: ``int`` alone is what ``int(x)`` is called."""
_FILLING = frozenset({
    "zero", "fill", "copy", "uniform", "normal", "trunc_normal", "constant", "ones", "zeros",
    "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "orthogonal",
})  # fmt: skip
_HALF = (torch.float16, torch.bfloat16)

_MAY_CUT = DETACHING | SELECTING | COMPARING | ZERO_GRADIENT | _CASTS

_ASKING = frozenset({
    "size", "dim", "numel", "nelement", "ndimension", "stride", "storage_offset", "element_size",
    "is_contiguous", "is_floating_point", "is_complex", "is_nonzero", "get_device", "data_ptr",
    "untyped_storage", "register_hook", "requires_grad", "retain_grad", "has_names",
    "is_same_size", "is_tensor", "backward", "grad",
})  # fmt: skip


def function_name(function: Any) -> str:
    """Name of a function that torch dispatches: ``relu``, ``detach``, ``data`` (its getter) ….

    Args:
        function: what ``__torch_function__`` is given.

    Returns:
        The name without an in-place underscore; "" where no numbers are handed on: other
        attributes, setters, questions about shape or storage, and in-place changes of a tensor
        that are not differentiated (``zero_``, ``copy_`` …) as in an initialisation.
    """
    name = getattr(function, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        return "data" if attribute == "data" else ""
    name = _ALIASES.get(name, name)
    bare = name.rstrip("_")
    if name.startswith("__") or bare in _ASKING or (bare != name and bare in _FILLING):
        return ""
    return bare


def may_cut(name: str) -> bool:
    """Whether calls of a function of this name can be cuts, or comparisons that become one."""
    return name in _MAY_CUT


def is_cast(name: str) -> bool:
    """Whether a function of this name may change the dtype of the tensor it belongs to."""
    return name in _CASTS


def cut_operation(name: str, result: Any) -> str | None:
    """Name of the cut that a call made, None if it made none.

    Args:
        name: as ``function_name`` gives it.
        result: what the call returned.
    """
    if is_cast(name) and isinstance(result, Tensor):
        if result.dtype.is_floating_point or result.dtype.is_complex:
            return None
        return str(result.dtype).removeprefix("torch.") if name in _UNNAMED else name
    if name in DETACHING or name in SELECTING or name in ZERO_GRADIENT:
        return name
    return None


def half_cast(name: str, source: Tensor, result: Any) -> str | None:
    """Name of the half-precision dtype that a call cast to, None if it did not."""
    if not is_cast(name) or not isinstance(result, Tensor):
        return None
    if result.dtype not in _HALF or source.dtype in _HALF:
        return None
    return str(result.dtype).removeprefix("torch.")


def reason_of(operation: str) -> Reason:
    """Why a parameter behind a cut gets no gradient, in the words of ``facts.PARAMETERS``."""
    if operation in ZERO_GRADIENT:
        return "other"
    return "detached" if operation in DETACHING else "integer"
