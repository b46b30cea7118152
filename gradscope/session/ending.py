"""How a process comes to its end: signals, threads, other ranks."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  after the threads' end it cannot be imported
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gradscope.recording import shards

OTHERS_SECONDS = 10.0
"""How long rank 0 waits for the other ranks to close their files."""


def on_terminate(then: Callable[[], None]) -> None:
    """At SIGTERM do something first, and then end by it as if nobody had looked.

    Nothing is done where the signal has another handler already or outside the main thread. A
    forked process ends at once.

    Args:
        then: called in the main thread between two of its instructions; must not raise.
    """
    pid = os.getpid()

    def handler(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == pid:
            then()
        else:
            die_of(number)

    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, handler)


def die_of(number: int) -> NoReturn:
    """End this process by a signal, as the system's own handling of it would."""
    flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(60)  # until the signal has come
    os._exit(128 + number)


def die_at_exit(number: int) -> Callable[[], None]:
    """Have the process end by a signal, once all ``atexit`` functions of the script have run.

    Returns:
        a function to be called if that is wanted after all; call this one before the script.
    """
    wanted = [False]

    def end() -> None:
        if wanted[0]:
            die_of(number)

    atexit.register(end)
    return lambda: wanted.__setitem__(0, True)


def stop_here(code: int = 0) -> NoReturn:
    """End this process at once: nothing of the script can catch it.

    Worker processes are ended first, else they would hold the terminal open until they notice.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing else []:
        with suppress(Exception):
            child.terminate()
    flush()
    os._exit(code)


def flush() -> None:
    """Write out what was printed: ``os._exit`` and signals do not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def wait_for_threads() -> None:
    """Wait for the script's threads, as Python does at its end, before ``atexit`` functions."""
    # the same call that Python makes; it also ends idle pools, which would be waited for for ever
    shutdown = getattr(threading, "_shutdown", None)
    if shutdown is not None:
        shutdown()


def wait_for_ranks(folder: Path, own: int, seconds: float = OTHERS_SECONDS) -> None:
    """Wait until no other rank of this machine writes in ``folder`` any more, or time is up.

    Args:
        folder: the run folder.
        own: the rank that waits.
        seconds: at most this long.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError):
            names = {path.name.removesuffix(".alive") for path in folder.glob("rank*.alive")}
            others = [name for name in names if name != shards.shard_name(own)]
            if not any(shards.alive(folder, name) is not None for name in others):
                return
        time.sleep(0.05)
