"""Names of the variables that hold roots and tensors in the user's code.

A root may be held by a local or global variable, by an attribute of an object that is (a trainer),
or by a list, tuple or dict of one of these; its name is the path that a person would write.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor, nn

from gradscope.observe.frames import owner

_FEW = 1_000
"""Items of one list or dict that are looked at."""


def names_of(things: Iterable[Any], depth: int = 1) -> dict[int, str]:
    """Names of ``things`` in the frames of the user's code around the caller.

    Args:
        things: modules or tensors.
        depth: frames to leave out, this function's own included.

    Returns:
        by ``id`` those that have one; inner frames before outer ones, a plain variable before an
        attribute, an attribute before an item of a list, names without a leading underscore first.
    """
    found = held_by_variables({id(thing) for thing in things}, depth + 1)
    return {identity: name for identity, (name, _) in found.items()}


def held_by_variables(
    wanted: Collection[int], depth: int = 1, *, plain: bool = False
) -> dict[int, tuple[str, Any]]:
    """Name and object of everything with an ``id`` in ``wanted`` that the user's variables hold.

    Args:
        wanted: what is looked for.
        depth: frames to leave out, this function's own included.
        plain: only variables, no attributes and no items.
    """
    found: dict[int, tuple[str, Any]] = {}
    for variables in _scopes(depth + 1):
        for held in _by_nearness(variables, plain=plain):
            for name, thing in held:
                if id(thing) in wanted and id(thing) not in found:
                    found[id(thing)] = name, thing
        if len(found) == len(wanted):
            break
    return found


def _scopes(depth: int) -> Iterator[Mapping[str, Any]]:
    frame: FrameType | None = sys._getframe(depth)
    modules: list[dict[str, Any]] = []
    while frame is not None:
        if owner(frame.f_code.co_filename) == "user":
            if all(known is not frame.f_globals for known in modules):
                modules.append(frame.f_globals)
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                yield from _locals(frame)
        frame = frame.f_back
    main = sys.modules.get("__main__")
    if main is not None and all(known is not vars(main) for known in modules):
        modules.append(vars(main))
    yield from modules


def _locals(frame: FrameType) -> Iterator[Mapping[str, Any]]:
    seen = frame.f_locals
    yield dict(seen)
    if sys.version_info < (3, 13):
        # a snapshot that stays with the frame: it would keep the user's tensors alive
        seen.clear()


def _by_nearness(variables: Mapping[str, Any], *, plain: bool) -> Iterator[list[tuple[str, Any]]]:
    own = sorted(
        ((name, thing) for name, thing in variables.items() if not name.startswith("__")),
        key=lambda item: item[0].startswith("_"),
    )
    yield [(name, thing) for name, thing in own if name != "self"]
    if plain:
        return
    attributes = [
        (attribute if name == "self" else f"{name}.{attribute}", inner)
        for name, thing in own
        for attribute, inner in _attributes(thing)
    ]
    yield attributes
    yield [
        (f"{name}.{key}", item)
        for name, thing in (*own, *attributes)
        for key, item in _items(thing)
    ]


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, (type, ModuleType, Tensor)):
        return
    # the dicts themselves: a property or __getattr__ would run the user's code
    try:
        held = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return
    if isinstance(thing, nn.Module):
        yield from list(thing._modules.items())
    yield from [item for item in list(held.items())[:_FEW] if isinstance(item[0], str)]


def _items(thing: Any) -> Iterator[tuple[Any, Any]]:
    if type(thing) in (list, tuple):
        yield from enumerate(thing[:_FEW])
    elif type(thing) is dict and len(thing) <= _FEW:
        yield from list(thing.items())
