"""Names of the variables that hold objects in the caller's code."""

from __future__ import annotations

from types import FrameType
from typing import Any


def variable_of(thing: Any, frame: FrameType) -> str | None:
    """Name of the variable, or of the attribute of ``self``, that holds ``thing`` in ``frame``."""
    owner = frame.f_locals.get("self")
    attributes = (
        {**vars(owner), **vars(owner).get("_modules", {})} if hasattr(owner, "__dict__") else {}
    )
    for scope in (frame.f_locals, attributes, frame.f_globals):
        named = [name for name, value in scope.items() if value is thing and name != "self"]
        public = [name for name in named if not name.startswith("_")]
        if public or named:
            return (public or named)[0]
    return None
