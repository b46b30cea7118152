"""Child processes: one prepares something once, and a fork of it runs each task.

A task may crash, hang, be killed or run out of memory: the caller is told, and nothing else happens
to it. The one that prepares is a fork of this process, or a new interpreter where this one has run
a script already. Where the platform cannot fork, or an accelerator is in use (whose context does
not survive a fork), each task gets a new interpreter that prepares anew.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from gradscope.running.child_end import (
    GRACE,
    Ended,
    Send,
    death,
    failed,
    finish,
    kill,
    reap,
    signal_name,
)
from gradscope.running.failures import in_one_line

Mode = Literal["fork", "new", "each"]
"""The preparing process is a fork of this one, a new interpreter, or a new one for each task."""


def usual_mode() -> Mode:
    """Fork where that is safe from this process."""
    if not hasattr(os, "fork") or sys.platform == "darwin" or torch.cuda.is_initialized():
        return "each"
    return "fork"


class Server:
    """Runs tasks, one after the other, each in a child of a process that has prepared.

    Use it as a context manager. Tasks must be picklable, and so must ``prepare`` where the platform
    does not fork.

    Args:
        prepare: makes what the tasks are given.
        seconds: limit of the preparation.
        mode: see ``Mode``; by default ``usual_mode()``.

    Attributes:
        failure: how the preparation ended, None where it did not fail.
    """

    def __init__(
        self, prepare: Callable[[], Any], *, seconds: float, mode: Mode | None = None
    ) -> None:
        self._prepare, self._seconds = prepare, seconds
        self._mode = mode or usual_mode()
        self._pid, self._pipe = 0, None  # type: tuple[int, Connection | None]
        self.failure: Ended | None = None
        if self._mode != "each":
            self._start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        task: Callable[[Any, Send], None],
        *,
        seconds: float,
        told: Callable[[Any], None] = lambda message: None,
    ) -> Ended:
        """Run ``task(prepared, send)`` in a child.

        Args:
            task: what to run.
            seconds: after them the child and what it has started are killed.
            told: given each message as it comes.
        """
        if self.failure is not None:
            return self.failure
        begun = time.monotonic()
        if self._mode != "each":
            ended = self._asked(task, seconds, told)
        else:
            ended = _fresh(self._prepare, task, self._seconds + seconds, told)
        ended.seconds = time.monotonic() - begun
        return ended

    def close(self) -> None:
        """End the server and whatever it runs; idempotent."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._pid:
            reap(self._pid, GRACE)
            self._pid = 0

    # ------------------------------------------------------------------ forked

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._pipe = ours
        if self._mode == "new":
            if not self._interpreter(ours, theirs):
                return
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            self._pid = os.fork()
            if self._pid == 0:
                ours.close()
                _as_child(lambda: _serve(theirs, self._prepare), session=True)
        theirs.close()
        try:
            ready = ours.recv() if ours.poll(self._seconds) else None
        except EOFError:
            ready = Ended("killed", death(self._pid))
        if ready is None:
            ready = Ended("timeout", f"it took more than {self._seconds:.3g} s to begin")
            kill(self._pid)
        if isinstance(ready, Ended):
            self.failure = ready
            self.close()

    def _interpreter(self, ours: Connection, theirs: Connection) -> bool:
        try:
            prepare = pickle.dumps(self._prepare)
        except Exception as error:
            theirs.close()
            self.failure = Ended("stopped", f"it cannot be sent to a process: {in_one_line(error)}")
            self.close()
            return False
        package = str(Path(__file__).resolve().parents[2])
        code = (
            f"import sys; sys.path.insert(0, {package!r}); from gradscope.running import child; "
            f"sys.path.pop(0); child.serve_at({theirs.fileno()})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._pid = process.pid
        process.returncode = 0  # it is waited for here, by its number
        ours.send_bytes(prepare)
        return True

    def _asked(
        self, task: Callable[[Any, Send], None], seconds: float, told: Callable[[Any], None]
    ) -> Ended:
        pipe = self._pipe
        if pipe is None:
            return Ended("stopped", "the process that runs the trials has ended")
        messages: list[Any] = []
        deadline = time.monotonic() + seconds + GRACE
        try:
            pipe.send_bytes(pickle.dumps((task, seconds)))
            while pipe.poll(max(0.0, deadline - time.monotonic())):
                message = pipe.recv()
                if isinstance(message, Ended):
                    message.messages = messages
                    return message
                messages.append(message)
                told(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            ended = Ended("killed", death(self._pid), messages)
            self._pid = 0
        else:
            ended = Ended("timeout", f"it took more than {seconds:.3g} s", messages)
            kill(self._pid)
        self.close()
        return ended


def serve_at(descriptor: int) -> None:
    """The life of a new interpreter that is to prepare; its pipe is already open."""
    pipe = Connection(descriptor)

    def life() -> None:
        try:
            prepare = pickle.loads(pipe.recv_bytes())
        except Exception as error:
            pipe.send(failed(error))
            return
        _serve(pipe, prepare)

    _as_child(life, session=True)


def _serve(pipe: Connection, prepare: Callable[[], Any]) -> None:
    """The server's life: prepare, then fork a child for each request until the pipe closes."""
    try:
        prepared = prepare()
    except BaseException as error:
        pipe.send(failed(error))
        return
    pipe.send("ready")
    while True:
        try:
            task, seconds = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        except Exception as error:
            pipe.send(failed(error))
            continue
        source, sink = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            pipe.close()
            source.close()
            _as_child(functools.partial(_one, task, prepared, sink), session=False)
        sink.close()
        if not _relay(pid, source, pipe, seconds):
            return
        source.close()


def _one(task: Callable[[Any, Send], None], prepared: Any, sink: Connection) -> None:
    try:
        task(prepared, sink.send)
    except BaseException as error:
        sink.send(failed(error))
    else:
        sink.send(Ended("done"))


def _relay(pid: int, source: Connection, pipe: Connection, seconds: float) -> bool:
    """Hand on a child's messages until it ends; False when the parent has gone."""
    deadline = time.monotonic() + seconds
    ended: Ended | None = None
    while ended is None:
        left = deadline - time.monotonic()
        if left <= 0:
            ended = Ended("timeout", f"it took more than {seconds:.3g} s")
            break
        ready = wait([source, pipe], left)
        if pipe in ready:
            kill(pid)
            return False
        if source in ready:
            try:
                message = source.recv()
            except (EOFError, OSError):
                ended = Ended("killed", death(pid))
                pid = 0
                break
            if isinstance(message, Ended):
                ended = message
            else:
                pipe.send(message)
    if pid:
        kill(pid)
        reap(pid, GRACE)
    pipe.send(ended)
    return True


def _as_child(life: Callable[[], None], *, session: bool) -> None:
    """Run ``life`` and end this process without the parent's clean-up."""
    status = 1
    try:
        if session:
            # Ctrl-C in the terminal is for the parent, which then closes the pipe
            os.setsid()
            _be_silent()
            # a thread pool does not survive a fork: the first parallel operation would wait forever
            torch.set_num_threads(1)
        else:
            os.setpgid(0, 0)
        life()
        status = 0
    finally:
        os._exit(status)


def _be_silent() -> None:
    """Nothing is read from or written to the parent's streams."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


# ---------------------------------------------------------------------- not forked


def _fresh(
    prepare: Callable[[], Any],
    task: Callable[[Any, Send], None],
    seconds: float,
    told: Callable[[Any], None],
) -> Ended:
    context = multiprocessing.get_context("spawn")
    source, sink = context.Pipe(duplex=False)
    process = context.Process(target=_whole, args=(prepare, task, sink), daemon=False)
    main = sys.modules["__main__"]
    try:
        # the new interpreter would run the caller's file again, to find what is pickled from it
        sys.modules["__main__"] = ModuleType("__main__")
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        return Ended("stopped", f"it cannot be sent to a process: {in_one_line(error)}")
    finally:
        sys.modules["__main__"] = main
    sink.close()
    messages: list[Any] = []
    deadline = time.monotonic() + seconds
    ended: Ended | None = None
    while ended is None:
        if not source.poll(max(0.0, deadline - time.monotonic())):
            ended = Ended("timeout", f"it took more than {seconds:.3g} s")
            break
        try:
            message = source.recv()
        except (EOFError, OSError):
            process.join(GRACE)
            ended = Ended("killed", signal_name(-(process.exitcode or 0)))
            break
        if isinstance(message, Ended):
            ended = message
        else:
            messages.append(message)
            told(message)
    process.kill()
    process.join()
    ended.messages = messages
    return ended


def _whole(prepare: Callable[[], Any], task: Callable[[Any, Send], None], sink: Connection) -> None:
    _be_silent()
    torch.set_num_threads(1)
    try:
        prepared = prepare()
    except BaseException as error:
        sink.send(failed(error))
        return
    _one(task, prepared, sink)


__all__ = ["Ended", "Mode", "Send", "Server", "finish", "serve_at", "usual_mode"]
