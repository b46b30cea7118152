"""Remembers the user's line that builds each module."""

from __future__ import annotations

import copy
import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from gradscope.observe.callsite import shown
from gradscope.observe.frames import Site, owner
from gradscope.observe.model.source_code import source_record, source_text
from gradscope.observe.model.source_search import SourceSearch

__all__ = [
    "ConstructionTrace",
    "Place",
    "built_at",
    "living_modules",
    "locate",
    "search_below",
    "source_record",
    "source_text",
]

Place = tuple[str, int, Literal["construction", "source"]]
"""File as shown to the user, line, and how it was found."""

_COPY = copy.__file__
_built: dict[int, tuple[weakref.ref[Any], Site]] = {}
"""By id, with a weak reference that removes the entry: a module may define ``__eq__``."""


class ConstructionTrace:
    """Context manager: inside it each module and optimizer that is built is remembered, weakly.

    ``__init__`` of both, and ``nn.Module.__setstate__`` (which a deep copy calls instead), are
    replaced inside and put back exactly.
    """

    def __init__(self, on_optimizer: Callable[[Optimizer], None] | None = None) -> None:
        """Make one.

        Args:
            on_optimizer: told of each optimizer when it has its parameters; must not raise.
        """
        self._on_optimizer = on_optimizer
        self._active = False
        self._replaced: list[tuple[type, str, Any, Any]] = []

    def __enter__(self) -> ConstructionTrace:
        self._active = True
        for kind, name, is_build in (
            (nn.Module, "__init__", _is_call),
            (nn.Module, "__setstate__", _is_deep_copy),
            (Optimizer, "__init__", _is_call),
        ):
            original = vars(kind)[name]
            wrapper = self._wrap(original, is_build)
            setattr(kind, name, wrapper)
            self._replaced.append((kind, name, original, wrapper))
        return self

    def __exit__(self, *_: object) -> None:
        self._active = False
        for kind, name, original, wrapper in self._replaced:
            # somebody who has wrapped ours since keeps it; it only calls through from now on
            if vars(kind)[name] is wrapper:
                setattr(kind, name, original)
        self._replaced.clear()

    def _wrap(self, original: Any, is_build: Any) -> Any:
        @functools.wraps(original)
        def wrapper(thing: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(thing, *args, **kwargs)
            if self._active:
                frame = _outside(sys._getframe(1), thing)
                site = _user_line(frame) if is_build(frame) else None
                if site is not None:
                    _remember(thing, site)
                if self._on_optimizer is not None and isinstance(thing, Optimizer):
                    self._on_optimizer(thing)
            return result

        return wrapper


def living_modules() -> list[nn.Module]:
    """Every module that was seen while it was built and still lives, in order of building."""
    things = [reference() for reference, _ in list(_built.values())]
    return [thing for thing in things if isinstance(thing, nn.Module)]


def built_at(
    module: nn.Module | Optimizer, search: SourceSearch | None = None, path: str = ""
) -> Place | None:
    """Where a module or an optimizer was built.

    Args:
        module: the module or optimizer.
        search: of the root below which it was found, used where the building was not seen.
        path: path of the module below that root.

    Returns:
        File, line, and ``construction`` (seen while it was built) or ``source`` (found in the
        source of the classes above it); None if not known.
    """
    entry = _built.get(id(module))
    if entry is not None and entry[0]() is module:
        return shown(entry[1].file), entry[1].line, "construction"
    site = None if search is None else search.at(path)
    return None if site is None else (shown(site.file), site.line, "source")


def search_below(root: nn.Module) -> SourceSearch:
    """A search for what is built below ``root``, in the file where it was seen to be built."""
    seen = _built.get(id(root))
    return SourceSearch(root, seen[1].file if seen is not None and seen[0]() is root else None)


def locate(root: nn.Module, path: str) -> Place | None:
    """Where the module at ``path`` below ``root`` was built, see ``built_at``."""
    module: Any = root
    for name in path.split(".") if path else []:
        if isinstance(module, (list, tuple)):
            module = module[int(name)] if name.isdigit() and int(name) < len(module) else None
        elif isinstance(module, dict):
            module = module.get(name)
        else:
            module = getattr(module, name, None)
    return built_at(module, search_below(root), path) if isinstance(module, nn.Module) else None


def _remember(module: Any, site: Site) -> None:
    key = id(module)

    def forget(reference: weakref.ref[Any]) -> None:
        if key in _built and _built[key][0] is reference:
            del _built[key]

    _built[key] = weakref.ref(module, forget), site


def _outside(frame: FrameType | None, module: Any) -> FrameType | None:
    """The first frame that is no method of the object itself: who builds it."""
    while frame is not None and _is_method_of(frame, module):
        frame = frame.f_back
    return frame


def _is_method_of(frame: FrameType, module: Any) -> bool:
    code = frame.f_code
    if code.co_argcount:
        return frame.f_locals.get(code.co_varnames[0]) is module
    if code.co_flags & 0x04:  # *args of a decorator around __init__
        arguments = frame.f_locals.get(code.co_varnames[code.co_kwonlyargcount])
        return bool(arguments) and isinstance(arguments, tuple) and arguments[0] is module
    return False


def _is_call(_frame: FrameType | None) -> bool:
    return True


def _is_deep_copy(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename == _COPY


def _user_line(frame: FrameType | None) -> Site | None:
    """First line of the user's from a frame outward, else the first of a library."""
    library: Site | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        whose = owner(file)
        if whose == "user":
            return Site(file, frame.f_lineno)
        if whose == "gradscope":
            break
        if whose == "library" and library is None and "-packages/" in file:
            library = Site(file, frame.f_lineno)
        frame = frame.f_back
    return library
