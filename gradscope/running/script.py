"""A script or a module, run exactly as Python itself would run it.

``execute`` does what ``python train.py args`` or ``python -m package.train args`` does, and nothing
else: no observation takes place here, and torch is not imported, because a script may set
environment variables that count only until then.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType

from gradscope.errors import UsageError

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
Tidy = Callable[[list[TracebackType]], list[TracebackType]]
INTERRUPTED = -int(signal.SIGINT)
"""Exit status of a process that Ctrl-C ended, as ``subprocess`` gives it."""


@dataclass(frozen=True, slots=True)
class Script:
    """What is to be run.

    Attributes:
        target: path of a file (or of a folder or archive with a ``__main__.py``), or the name of a
            module.
        arguments: what the script finds in ``sys.argv[1:]``.
        module: whether ``target`` is the name of a module, as after ``python -m``.
    """

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The command line behind ``python``."""
        return (*(("-m",) if self.module else ()), self.target, *self.arguments)


def refuse_missing(script: Script) -> None:
    """Tell of a file that is not there before anything is begun.

    Raises:
        UsageError: there is no such file.
    """
    if not script.module and not Path(script.target).exists():
        raise UsageError(
            f"there is no file {script.target!r} in {Path.cwd()}",
            hint="give the path of a script, or -m and the name of a module",
        )


def execute(script: Script) -> None:
    """Run a script as ``__main__``; what it raises comes out, ``SystemExit`` too.

    ``sys.argv``, ``sys.path[0]`` and ``sys.modules["__main__"]`` are those of the script afterwards
    too: its threads, its ``atexit`` functions and unpickling need them. The working directory is
    not touched.

    Args:
        script: what to run.

    Raises:
        BaseException: whatever the script raises; ``without_own_frames`` takes off the traceback
            what stands above the script.
    """
    main = ModuleType("__main__")
    vars(main)["__annotations__"] = {}
    vars(main)["__builtins__"] = sys.modules["builtins"]
    if script.module:
        _enter(main, str(Path.cwd()), ["-m", *script.arguments])
        _run_module(script.target, alter_argv=True)
    elif Path(script.target).is_dir() or zipfile.is_zipfile(script.target):
        _enter(main, str(Path(script.target).resolve()), [script.target, *script.arguments])
        _run_module("__main__", alter_argv=False)
    else:
        folder = str(Path(script.target).resolve().parent)
        _enter(main, folder, [script.target, *script.arguments])
        _run_file(main, _as_python_shows(script.target))


def uncaught(error: BaseException, tidy: Tidy = list) -> int:
    """Do with what a script raised what Python does with it: print it, give the exit status.

    An exit by ``sys.exit`` prints its message, if it has one; anything else goes to
    ``sys.excepthook``, which the script may have exchanged, without a frame of gradscope.

    Args:
        error: what was raised.
        tidy: what else becomes of the entries of a traceback, outermost first, that have no frame
            of gradscope.

    Returns:
        The exit status, or ``INTERRUPTED`` after Ctrl-C.
    """
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        _flush()
        print(error.code, file=sys.stderr)
        return 1
    without_own_frames(error, tidy)
    _flush()
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as left:
        return uncaught(left, tidy)
    except BaseException as failed:
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exception(without_own_frames(failed))
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(error)
    return INTERRUPTED if type(error) is KeyboardInterrupt else 1


def without_own_frames(error: BaseException, tidy: Tidy = list) -> BaseException:
    """Take gradscope's frames off the tracebacks of an exception and of those behind it.

    Args:
        error: the exception, which is changed.
        tidy: what else becomes of a traceback's entries.
    """
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        at = pending.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        at.__traceback__ = _cut(at.__traceback__, tidy)
        pending += [other for other in (at.__cause__, at.__context__) if other is not None]
        if isinstance(at, BaseExceptionGroup):
            pending += at.exceptions
    return error


def _cut(trace: TracebackType | None, tidy: Tidy) -> TracebackType | None:
    kept: list[TracebackType] = []
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file == __file__:
            kept = []  # whatever called this module stands above the script
        elif not file.startswith(_PACKAGE):
            kept.append(trace)
        trace = trace.tb_next
    following = None
    for entry in reversed(tidy(kept)):
        entry.tb_next = following
        following = entry
    return following


def _enter(main: ModuleType, folder: str, argv: list[str]) -> None:
    """What Python sets up before the first line of a script."""
    sys.modules["__main__"] = main
    sys.argv[:] = argv
    if not sys.flags.safe_path:
        # the first entry is the folder of the program that is running, put there by Python
        sys.path[:1] = [folder]


def _run_file(main: ModuleType, file: str) -> None:
    loader = SourceFileLoader("__main__", file)
    vars(main).update(__loader__=loader, __file__=file, __cached__=None)
    code = compile(loader.get_data(file), file, "exec", dont_inherit=True)
    exec(code, vars(main))


def _run_module(name: str, *, alter_argv: bool) -> None:
    # what `python -m` itself calls; it runs in sys.modules["__main__"], so that pickling works
    private: Callable[..., object] | None = getattr(runpy, "_run_module_as_main", None)
    if private is not None:
        private(name, alter_argv)
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=alter_argv)


def _as_python_shows(path: str) -> str:
    """The path as Python gives it to ``__file__``: absolute, but not made simpler."""
    if os.name == "nt":
        return str(Path(path).resolve())
    return path if Path(path).is_absolute() else f"{Path.cwd()}{os.sep}{path}"


def _flush() -> None:
    """What was printed before stands before the traceback, where both go to one place."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
