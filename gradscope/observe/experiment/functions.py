"""Custom ``torch.autograd.Function`` classes: found, placed, and exchanged for a while.

``apply`` is often kept under another name before anybody could patch it, but it looks up
``forward`` and ``backward`` of the class at each call. So it is these that are exchanged, on every
subclass that is not PyTorch's own, and put back at the end.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from torch.autograd import Function

from gradscope.observe.frames import owner


def custom_functions() -> Iterator[type[Function]]:
    """Every subclass of Function that now exists, without PyTorch's own."""
    pending, seen = list(Function.__subclasses__()), set()
    while pending:
        cls = pending.pop()
        if cls in seen:
            continue
        seen.add(cls)
        pending += cls.__subclasses__()
        if cls.__module__.partition(".")[0] not in ("torch", "functorch"):
            yield cls


def users_functions() -> Iterator[type[Function]]:
    """Those of ``custom_functions`` that are defined in the user's own files."""
    for cls in custom_functions():
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file is None or owner(file) == "user":
            yield cls


def place_of(cls: type[Function]) -> tuple[str, int] | None:
    """File and line of a Function's backward, of the class where it has none of its own."""
    for thing in (vars(cls).get("backward"), vars(cls).get("vjp"), cls):
        thing = getattr(thing, "__func__", thing)
        if thing is None:
            continue
        try:
            lines, start = inspect.getsourcelines(thing)
            file = inspect.getsourcefile(thing) or ""
        except (OSError, TypeError):
            continue
        # decorators stand above the line that one wants to see
        words = ("def ", "class ", "async ")
        below = (i for i, line in enumerate(lines) if line.lstrip().startswith(words))
        return file, start + next(below, 0)
    return None


def separate_context(cls: type[Function]) -> bool:
    """Whether ``forward`` takes no ctx, because ``setup_context`` does."""
    return cls.setup_context is not Function.setup_context


class Exchanged(ABC):
    """Methods of every custom Function are exchanged while it is entered."""

    def __init__(self) -> None:
        self._saved: list[tuple[type, str, bool, Any]] = []

    @abstractmethod
    def exchange(self, cls: type[Function]) -> None:
        """``put`` what shall stand in the place of the methods of ``cls``."""

    def put(self, cls: type[Function], name: str, method: Callable[..., Any]) -> None:
        """Let ``method`` stand in the place of the static method ``name``."""
        own = name in vars(cls)
        self._saved.append((cls, name, own, vars(cls).get(name)))
        setattr(cls, name, staticmethod(method))

    def __enter__(self) -> Self:
        for cls in custom_functions():
            self.exchange(cls)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for cls, name, own, old in reversed(self._saved):
            if own:
                setattr(cls, name, old)
            else:
                delattr(cls, name)
        self._saved = []
