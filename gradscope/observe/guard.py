"""gradscope's own failure never stops a training, and its own time is known."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
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
        inside: whether a callback runs now in the calling thread.
    """

    def __init__(self) -> None:
        self.open = False
        self.failure: str | None = None
        self.seconds = 0.0
        self._threads: set[int] = set()
        self._later: Callable[[], None] | None = None
        self.step: Callable[[], int] = lambda: 0
        self.on_failure: Callable[[], None] = lambda: None

    @property
    def inside(self) -> bool:
        """Whether a callback runs now in the calling thread."""
        return threading.get_ident() in self._threads

    def call(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``callback``; at its first failure log it once and run nothing any more."""
        if not self.open or self.failure:
            return None
        began = time.perf_counter()
        thread = threading.get_ident()
        outermost = thread not in self._threads
        self._threads.add(thread)
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
            if outermost:
                self._threads.discard(thread)
            self.seconds += max(time.perf_counter() - began, 0.0)
            if outermost and self._later is not None:
                later, self._later = self._later, None
                later()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no callback runs: what gradscope computes itself is no part of the training."""
        was, self.open = self.open, False
        try:
            yield
        finally:
            self.open = was

    def when_outside(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` now, or at the end of the callback that runs in this thread.

        For a signal handler: it may interrupt gradscope's own code at any point.
        """
        if self.inside:
            self._later = callback
        else:
            callback()

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
