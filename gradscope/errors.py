"""Every error that gradscope raises on purpose.

    GradscopeError                    exit 2
    ├── UsageError                    exit 2   a flag, an argument or a path that cannot be used
    │   ├── ConfigError               exit 2   a setting in pyproject.toml or the environment
    │   └── RunFolderError            exit 2   the run folder is taken, alive or not writable
    ├── RecordingError                exit 2   a run folder that cannot be read
    ├── BackwardError                 exit 1   a backward pass is wrong (also an AssertionError)
    └── ModelError                    exit 3   the user's model could not be loaded or run
        ├── LoadError                 exit 3   importing the file or building the objects failed
        │   └── InterruptedLoadError  exit 130 Ctrl-C while the user's file was imported
        └── StepError                 exit 3   a forward, backward or update of it failed

A message says what happened, where, which value was seen, which values are legal, and what to do
next. Catch all of them with::

    try:
        ...
    except gradscope.GradscopeError as error:
        print(error)
"""

from __future__ import annotations

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as a shell gives it."""


class GradscopeError(Exception):
    """Base of all errors raised by gradscope.

    Attributes:
        what: one sentence, lower case, without a full stop: what is wrong and the value seen.
        where: the place, as ``file:line`` or a layer's path, or None.
        hint: what to do next, or None.
        exit_code: the process exit code that the command line gives for it.
        user_traceback: the formatted traceback of the user's own code, or None.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        user_traceback: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.user_traceback = user_traceback

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  try:   {self.hint}")
        return "\n".join(lines)


class UsageError(GradscopeError):
    """A flag, an argument or a path that cannot be used."""


class ConfigError(UsageError):
    """A setting in pyproject.toml or the environment that cannot be used."""


class RunFolderError(UsageError):
    """The run folder is taken by another recording, alive, or not writable."""


class RecordingError(GradscopeError):
    """A run folder that cannot be read as a recording."""


class BackwardError(GradscopeError, AssertionError):
    """A backward pass is wrong, or it was asserted to be right and nobody can tell."""

    exit_code = 1


class ModelError(GradscopeError):
    """The user's model could not be loaded or run."""

    exit_code = 3


class LoadError(ModelError):
    """Importing the user's file or building the objects in it failed."""


class InterruptedLoadError(LoadError):
    """Ctrl-C while the user's file was imported."""

    exit_code = INTERRUPTED


class StepError(ModelError):
    """A forward pass, backward pass or update of the user's code failed."""


for _error in (
    GradscopeError,
    UsageError,
    ConfigError,
    RunFolderError,
    RecordingError,
    BackwardError,
    ModelError,
    LoadError,
    InterruptedLoadError,
    StepError,
):
    _error.__module__ = "gradscope"
