"""Looking for things in the user's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradscope.errors import LoadError


@dataclass(frozen=True)
class Names:
    """The names of the user's file and where they come from.

    Attributes:
        found: objects by name.
        origin: how to call the place in a sentence, e.g. ``model.py``.
        module: ``__name__`` of the module, to tell its own classes from imported ones.
    """

    found: Mapping[str, Any]
    origin: str
    module: str = ""
    batch_size: int | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences about what was assumed, in the order in which it was."""

    def get(self, name: str) -> Any:
        """The object called ``name``, or None."""
        return self.found.get(name)

    def assume(self, sentence: str) -> None:
        """Remember an assumption."""
        self.notes.append(sentence)


def required(function: Callable[..., Any]) -> list[str]:
    """Names of the parameters that a call must give; [] where the signature cannot be read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def parameters(function: Callable[..., Any]) -> list[str]:
    """Names of all named parameters; [] where the signature cannot be read."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def line_of(thing: Any) -> int | None:
    """First line of a function or class, None where it cannot be found."""
    try:
        return inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return None


def call_without_arguments(function: Callable[..., Any], name: str, names: Names) -> Any:
    """Call a function of the user's that takes nothing but perhaps ``batch_size``.

    Raises:
        LoadError: it needs other arguments.
    """
    given = {"batch_size": names.batch_size or 32} if "batch_size" in parameters(function) else {}
    missing = [p for p in required(function) if p not in given]
    if missing:
        raise LoadError(
            f"{name}() needs the argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=where(function, names),
            hint=f"give {'them defaults' if len(missing) > 1 else 'it a default'}: gradscope calls "
            f"{name}() with nothing",
        )
    return function(**given)


def where(thing: Any, names: Names) -> str:
    """``model.py:12``, or ``model.py`` where the line cannot be found."""
    line = line_of(thing)
    return f"{names.origin}:{line}" if line else names.origin
