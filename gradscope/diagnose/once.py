"""Measures that several rules read are computed once for each recording."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from gradscope.recording.reader import Recording

P = ParamSpec("P")
T = TypeVar("T")


def once(
    measure: Callable[Concatenate[Recording, P], T],
) -> Callable[Concatenate[Recording, P], T]:
    """``measure``, whose result for a recording and its further arguments is kept.

    A recording that was read does not change, and neither may the result: rules share it. It is
    let go with the recording.
    """
    kept: WeakKeyDictionary[Recording, dict[Hashable, T]] = WeakKeyDictionary()

    @wraps(measure)
    def shared(recording: Recording, /, *args: P.args, **kwargs: P.kwargs) -> T:
        own = kept.setdefault(recording, {})
        key = (*map(_key, args), *((name, _key(value)) for name, value in sorted(kwargs.items())))
        if key not in own:
            own[key] = measure(recording, *args, **kwargs)
        return own[key]

    return shared


def _key(argument: Any) -> Hashable:
    """Something equal for equal arguments; steps come as an array."""
    if isinstance(argument, np.ndarray):
        return argument.dtype.str, argument.tobytes()
    key: Hashable = argument
    return key


__all__ = ["once"]
