"""Importing the user's file as a person would, without leaving a trace."""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

from gradscope.errors import InterruptedLoadError, LoadError
from gradscope.observe.callsite import shown
from gradscope.observe.experiment.training_guard import TrainedWhileImported, TrainingGuard
from gradscope.observe.frames import owner
from gradscope.observe.model.construction import ConstructionTrace
from gradscope.running.failures import place, user_code


@contextmanager
def surroundings(file: Path) -> Iterator[None]:
    """What the user's code finds around it, from the import to the last step.

    Its folder is first on ``sys.path``, ``sys.argv`` holds only its own path, nothing is written to
    ``__pycache__``, and what it prints goes to stderr, because stdout is for the result. At the
    end all of it is put back and the modules of its folder are forgotten, so that the next check in
    the same process sees the files as they are then.

    Args:
        file: the user's file, absolute.
    """
    folder = str(file.parent)
    path, argv, dont_write = list(sys.path), list(sys.argv), sys.dont_write_bytecode
    modules = dict(sys.modules)
    sys.path.insert(0, folder)
    sys.argv[:] = [str(file)]
    sys.dont_write_bytecode = True
    try:
        with _stdout_to_stderr():
            yield
    finally:
        sys.path[:], sys.argv[:], sys.dont_write_bytecode = path, argv, dont_write
        for name, module in list(sys.modules.items()):
            if modules.get(name) is not module and _within(module, file.parent):
                sys.modules.pop(name)
                if name in modules:
                    sys.modules[name] = modules[name]


def import_file(file: Path) -> ModuleType:
    """Import ``file`` under its own stem; call it inside ``surroundings``.

    Modules that it builds are remembered with the lines that build them.

    Raises:
        LoadError: the file hides a loaded module, raises, exits or trains.
        InterruptedLoadError: the user pressed Ctrl-C.
    """
    name = file.stem
    _refuse_hiding(name, file)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{shown(str(file))} cannot be imported")
    linecache.checkcache()
    module = importlib.util.module_from_spec(spec)
    # an entry is needed while it runs: dataclasses, pickle and the file's own siblings look it up
    sys.modules[name] = module
    doing = f"importing {shown(str(file))}"
    try:
        with user_code(LoadError, doing), ConstructionTrace(), TrainingGuard():
            spec.loader.exec_module(module)
    except TrainedWhileImported as stopped:
        raise LoadError(
            f"{shown(str(file))} looks like a training script: use gradscope run",
            where=place(stopped),
            hint=f"gradscope run {shown(str(file))} watches it as it is; or put the loop into a "
            'function or under if __name__ == "__main__":, so that importing the file only builds '
            "the model",
        ) from None
    except KeyboardInterrupt as stopped:
        raise InterruptedLoadError(f"interrupted while {doing}", where=place(stopped)) from None
    return module


def _within(module: ModuleType, folder: Path) -> bool:
    origin = getattr(module, "__file__", None)
    if not origin or owner(origin) != "user":
        return False
    return Path(origin).is_relative_to(folder)


def _refuse_hiding(name: str, file: Path) -> None:
    loaded = sys.modules.get(name)
    if loaded is None:
        return
    origin = getattr(loaded, "__file__", None)
    if origin is None or owner(origin) != "user":
        raise LoadError(
            f"{shown(str(file))} has the name of the module {name!r}, which is in use",
            hint=f"rename the file: beside other code it would hide {name!r} too",
        )


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send stdout to stderr, the file descriptor too: C code and child processes print there."""
    saved = None
    # a notebook or a windowed program may have no such descriptor
    with suppress(OSError, AttributeError, ValueError):
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
