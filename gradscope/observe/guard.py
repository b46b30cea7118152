"""gradscope's own failure never stops a training, and its own time is known."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

_log = logging.getLogger("gradscope")
_Method = TypeVar("_Method", bound=Callable[..., Any])


class Guard:
    """Stands between the user's code and every callback.

    Attributes:
        open: callbacks run only while it is True.
        on_failure: called once, after the first failure.
        failure: why gradscope stopped observing by itself, or None.
        seconds: time spent in callbacks since it was last taken.
        inside: whether a callback runs now.
    """

    def __init__(self) -> None:
        self.open = False
        self.failure: str | None = None
        self.seconds = 0.0
        self.inside = False
        self.step: Callable[[], int] = lambda: 0
        self.on_failure: Callable[[], None] = lambda: None

    def call(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``callback``; at its first failure log it once and run nothing any more."""
        if not self.open or self.failure:
            return None
        began = time.perf_counter()
        inside, self.inside = self.inside, True
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            self.failure = (
                f"gradscope stopped observing at step {self.step()} because of its own failure: "
                f"{type(error).__name__}: {error}"
            )
            _log.error("%s", self.failure, exc_info=error)
            with contextlib.suppress(Exception):
                self.on_failure()
            return None
        finally:
            self.inside = inside
            self.seconds += time.perf_counter() - began

    def wrap(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """``callback`` behind this guard."""
        return functools.partial(self.call, callback)

    def take_seconds(self) -> float:
        """The time spent since the last call."""
        spent, self.seconds = self.seconds, 0.0
        return spent


class _Guarded(Protocol):
    guard: Guard


def guarded(method: _Method) -> _Method:
    """A method that runs behind the ``guard`` of its object."""

    @functools.wraps(method)
    def behind(self: _Guarded, *args: Any, **kwargs: Any) -> Any:
        return self.guard.call(method, self, *args, **kwargs)

    return behind  # type: ignore[return-value]
