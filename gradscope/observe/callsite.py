"""The user's line that made a call of the training loop (backward, step, clip …)."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import FrameType

from gradscope.observe.frames import owner

_OWN_LOOP = str(Path(__file__).parent.parent / "running")
_SCRIPT = str(Path(_OWN_LOOP) / "script.py")

OWN_LOOP = ("<gradscope check>", 0)
"""Site of calls that gradscope's own training loop makes in the user's stead."""


@functools.lru_cache(maxsize=4096)
def shown(filename: str) -> str:
    """``filename`` relative to the working directory where it lies below it."""
    try:
        return str(Path(filename).resolve().relative_to(Path.cwd()))
    except ValueError:
        return filename


def user_site() -> tuple[str, int] | None:
    """File (as shown) and line of the innermost frame of the user's code.

    Returns:
        ``OWN_LOOP`` when gradscope's own loop made the call; the innermost library's line when a
        framework made it and no user frame stands above; None when there is neither.
    """
    frame: FrameType | None = sys._getframe(1)
    library: tuple[str, int] | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        whose = owner(file)
        if whose == "user":
            return shown(file), frame.f_lineno
        if file == _SCRIPT:
            return library  # a library's own program is run
        if whose == "gradscope" and file.startswith(_OWN_LOOP):
            return OWN_LOOP
        if whose == "library" and library is None:
            library = shown(file), frame.f_lineno
        frame = frame.f_back
    return library


def site_text(site: tuple[str, int] | None) -> str | None:
    """``file:line``, only the label for gradscope's own loop, None for None."""
    if site is None:
        return None
    return site[0] if site[1] == 0 else f"{site[0]}:{site[1]}"
