"""What the user names on the command line: ``model.py`` or ``model.py:object``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from gradscope.errors import UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """A file, and the object in it that was asked for.

    Attributes:
        text: as the user wrote it.
        file: the file, absolute.
        name: dotted name of an object in the file, or None to search.
    """

    text: str
    file: Path
    name: str | None


def parse(text: str) -> Target:
    """Read ``model.py[:object]`` and make sure that the file is there.

    Raises:
        UsageError: no such file, a folder, or not a Python file.
    """
    path_text, name = text, None
    head, colon, tail = text.rpartition(":")
    if colon and head.endswith(".py"):
        path_text, name = head, tail
    path = Path(path_text)
    if path.is_dir():
        inside = sorted(found.name for found in path.glob("*.py"))[:5]
        listed = f"name a file in it: {', '.join(inside)}" if inside else "name a .py file"
        raise UsageError(f"{path_text!r} is a folder, not a Python file", hint=listed)
    if not path.exists():
        raise UsageError(f"there is no file {path_text!r}", hint=_nearest(path))
    if path.suffix != ".py":
        raise UsageError(f"{path_text!r} is not a Python file", hint="name a file that ends in .py")
    if name is not None and not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{name!r} is not the name of an object", hint=f"write {path_text}:model, for example"
        )
    return Target(text, path.resolve(), name)


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {str(folder)!r} does not exist either"
    names = [found.name for found in folder.glob("*.py")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {str(folder / close[0])!r}?" if close else "check the path"
