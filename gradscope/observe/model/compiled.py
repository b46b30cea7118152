"""What compiled code runs: which modules a compiled function calls, whether a model calls one.

Told from the names that a function uses, not by running it: its closure, globals, the object that
it is bound to, and those of the functions that it names. A module that comes in as an argument is
not seen there; hooks that it carries are nothing to compiled code, see ``hooks``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from gradscope.observe import private
from gradscope.observe.frames import owner

_DEPTH = 4
"""Calls from the function that is looked into."""
_ITEMS = 1_000
"""Things in one container or object that are looked at."""


def modules_called(target: Any) -> list[nn.Module]:
    """Modules that run as a part of ``target`` once it is compiled, its own root left out.

    Args:
        target: what ``torch.compile`` was given.
    """
    if isinstance(target, nn.Module):
        return list(target.modules())
    bound = getattr(target, "__self__", None)
    if isinstance(bound, nn.Module) and getattr(target, "__name__", "") == "forward":
        # hooks of the module itself run around its forward
        return [module for module in bound.modules() if module is not bound]
    found: dict[int, nn.Module] = {}
    for thing in _things(target):
        if isinstance(thing, nn.Module):
            found.update((id(module), module) for module in thing.modules())
    return list(found.values())


def calls_compiled(root: nn.Module) -> bool:
    """Whether a forward of ``root`` may run a function that ``torch.compile`` has made."""
    kinds: set[type] = set()
    for module in root.modules():
        if private.is_compiled(module) or _any_compiled(vars(module).values()):
            return True
        kinds.add(type(module))
    return any(
        private.is_compiled_function(thing)
        for kind in kinds
        if owner(inspect.getmodule(kind).__dict__.get("__file__") or "") != "torch"
        for method in vars(kind).values()
        for thing in _things(method)
    )


def _any_compiled(things: Any) -> bool:
    return any(callable(thing) and private.is_compiled_function(thing) for thing in things)


def _things(target: Any) -> Iterator[Any]:
    """Objects that a callable names, and those that the functions among them name."""
    seen: set[int] = set()
    pending = [(target, 0)]
    while pending:
        thing, depth = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        if depth < _DEPTH:
            pending.extend((below, depth + 1) for below in _below(thing))


def _below(thing: Any) -> list[Any]:
    bound = getattr(thing, "__self__", None)
    function = getattr(thing, "__func__", thing)
    if isinstance(function, FunctionType):
        function = inspect.unwrap(function)
        if not isinstance(function, FunctionType):
            return [function]
        cells = [_content(cell) for cell in function.__closure__ or ()]
        if owner(function.__code__.co_filename) in ("torch", "gradscope"):
            # torch's wrapper around a function, or a method of a module
            return [thing for thing in (*cells, bound) if callable(thing)]
        names = set(_names(function.__code__))
        found = [function.__globals__[name] for name in names if name in function.__globals__]
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        return [item for item in (*cells, *found, *defaults, bound) if item is not None]
    if isinstance(thing, (list, tuple, set)):
        return list(thing)[:_ITEMS]
    if isinstance(thing, dict):
        return list(thing.values())[:_ITEMS]
    if isinstance(thing, (nn.Module, type, ModuleType)) or owner(_file_of(thing)) != "user":
        return []
    # an object of the user's own class: a trainer that holds the model
    methods = [m for m in vars(type(thing)).values() if isinstance(m, FunctionType)]
    return [*list(getattr(thing, "__dict__", {}).values())[:_ITEMS], *methods]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _file_of(thing: Any) -> str:
    module = inspect.getmodule(type(thing))
    return getattr(module, "__file__", None) or ""
