"""Failures of the user's code as gradscope's errors, with the user's own frames."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradscope.errors import GradscopeError, ModelError
from gradscope.observe.callsite import shown
from gradscope.observe.frames import owner

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


@contextmanager
def user_code(kind: type[ModelError], doing: str, hint: str | None = None) -> Iterator[None]:
    """Run the user's code; whatever it raises becomes ``kind``.

    Args:
        kind: LoadError or StepError.
        doing: what was going on, as the subject of a sentence: ``importing model.py``.
        hint: what to do, where it is not clear from the exception.

    Raises:
        ModelError: of ``kind``, with the user's traceback. ``KeyboardInterrupt`` and gradscope's
            own errors pass.
    """
    try:
        yield
    except GradscopeError:
        raise
    except SystemExit as error:
        raise kind(
            f"{doing} called sys.exit({error.code!r})",
            where=place(error),
            hint=hint or 'put what should run only as a script under if __name__ == "__main__":',
            user_traceback=user_traceback(error),
        ) from error
    except Exception as error:
        raise kind(
            f"{doing} failed: {in_one_line(error)}",
            where=place(error),
            hint=hint or _hint(error),
            user_traceback=user_traceback(error),
        ) from error


def in_one_line(error: BaseException) -> str:
    """``ValueError: first line of the message``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def place(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame of the user's code; of the text for a syntax error."""
    if isinstance(error, SyntaxError) and error.filename and owner(error.filename) == "user":
        return f"{shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if owner(frame.filename) == "user"]
    return f"{shown(users[-1].filename)}:{users[-1].lineno}" if users else None


def user_traceback(error: BaseException) -> str:
    """The traceback with each run of frames of torch and other packages folded to one line.

    Exceptions that it was raised from stand before it, as Python prints them.
    """
    parts: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        parts.append(_one(at))
        if at.__cause__ is not None:
            parts.append(f"\n{_CAUSE}\n\n")
            at = at.__cause__
        elif at.__context__ is not None and not at.__suppress_context__:
            parts.append(f"\n{_CONTEXT}\n\n")
            at = at.__context__
        else:
            at = None
    return "".join(reversed(parts)).rstrip()


def _one(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    end = traceback.format_exception_only(error)
    if not any(owner(frame.filename) == "user" for frame in frames):
        return "".join(end)
    lines = ["Traceback (most recent call last):\n"]
    for user, run in itertools.groupby(frames, lambda frame: owner(frame.filename) == "user"):
        group = list(run)
        lines += traceback.format_list(group) if user else _folded(group)
    return "".join(lines + end)


def _folded(frames: list[traceback.FrameSummary]) -> list[str]:
    # gradscope called the user's code; that it did so is no news
    others = [frame for frame in frames if owner(frame.filename) != "gradscope"]
    packages = dict.fromkeys(_package(frame.filename) for frame in others)
    plural = "s" if len(others) > 1 else ""
    line = f"  … {len(others)} frame{plural} of {', '.join(packages)}\n"
    return [line] if packages.keys() - {"Python"} else []


def _package(file: str) -> str:
    if owner(file) == "torch":
        return "torch"
    parts = Path(file).parts
    folder = next((i for i, part in enumerate(parts) if part.endswith("-packages")), None)
    return "Python" if folder is None else parts[folder + 1].removesuffix(".py")


def _hint(error: Exception) -> str | None:
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name!r} into this environment, or check the import"
    if isinstance(error, SyntaxError):
        return "correct the line; python -m py_compile FILE shows the same error"
    return None
