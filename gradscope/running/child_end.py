"""How a child process ends, and how its parent learns of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from gradscope.running.failures import in_one_line, place

Send = Callable[[Any], None]
"""Hands a message, anything that can be pickled, to the parent."""
Kind = Literal["done", "failed", "memory", "killed", "timeout", "stopped"]
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
GRACE = 2.0
"""Seconds that a process gets beyond a limit to end by itself."""


@dataclass
class Ended:
    """How a task ended.

    Attributes:
        kind: ``done``; ``failed`` by an exception; out of ``memory``; ``killed`` by a signal;
            ``timeout``; ``stopped`` because there was nothing to run it in.
        reason: one sentence without a full stop; "" where it is done.
        messages: what it sent before it ended, in order.
        seconds: how long it took.
    """

    kind: Kind
    reason: str = ""
    messages: list[Any] = field(default_factory=list)
    seconds: float = 0.0


def finish(send: Send) -> NoReturn:
    """End a task from anywhere within it, without the clean-up of the code that runs around."""
    send(Ended("done"))
    os._exit(0)


def failed(error: BaseException) -> Ended:
    """A task ended by an exception, with the line of the user's code."""
    text = in_one_line(error)
    at = place(error)
    if isinstance(error, MemoryError) or any(part in text.lower() for part in _NO_MEMORY):
        return Ended("memory", f"it ran out of memory: {text}")
    return Ended("failed", f"{text} ({at})" if at and at not in text else text)


def death(pid: int) -> str:
    """How a process died, as a phrase."""
    status = reap(pid, GRACE)
    if status is None or os.WIFEXITED(status):
        return "it ended without a word"
    return signal_name(os.WTERMSIG(status))


def signal_name(number: int) -> str:
    """The signal that killed a process, as a phrase; 0 for none."""
    if number <= 0:
        return "it ended without a word"
    name = signal.Signals(number).name
    why = ", as happens when the memory is used up" if name == "SIGKILL" else ""
    return f"it was killed by {name}{why}"


def kill(pid: int) -> None:
    """Kill a process and its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def reap(pid: int, seconds: float) -> int | None:
    """Wait for a child, kill it after ``seconds``; its status, None if it was no child of ours."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if done:
            return status
        if time.monotonic() > deadline:
            kill(pid)
            deadline = time.monotonic() + seconds
        time.sleep(0.002)
