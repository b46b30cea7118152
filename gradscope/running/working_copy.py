"""A temporary copy of a script's folder, in which it may write what it likes."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = frozenset({
    ".git", ".hg", ".svn", ".gradscope", "__pycache__", ".venv", "venv", "node_modules",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", "wandb", "mlruns", "lightning_logs",
})  # fmt: skip
"""Folders that no training reads."""
MOST_BYTES = 200_000_000
MOST_FILES = 5_000


class TooLargeError(Exception):
    """The folder is too large to be copied for a trial."""


@dataclass(frozen=True)
class WorkingCopy:
    """Where a script and its working directory are in a copy.

    Attributes:
        folder: the copy.
        cwd: the working directory in it.
        script: the script's path in it.
    """

    folder: Path
    cwd: Path
    script: Path


def root_of(script: Path, cwd: Path) -> Path:
    """The folder to copy: the working directory where the script lies below it, else its own."""
    folder = script.resolve().parent
    cwd = cwd.resolve()
    return cwd if folder.is_relative_to(cwd) else folder


def refuse_large(root: Path) -> None:
    """Look at the size of a folder before it is copied.

    Raises:
        TooLargeError: with a sentence for the user.
    """
    total = files = 0
    for at, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            path = Path(at) / name
            files += 1
            total += path.stat().st_size if path.is_file() else 0
            if total > MOST_BYTES or files > MOST_FILES:
                raise TooLargeError(
                    f"its folder {root} holds more than {MOST_BYTES // 1_000_000} MB or "
                    f"{MOST_FILES:,} files, too many to be copied for a trial"
                )


def make(script: Path, cwd: Path, below: Path) -> WorkingCopy:
    """Copy what the script needs into a new folder, links as what they point to.

    Args:
        script: absolute path.
        cwd: absolute path.
        below: folder for the copies of one trial after the other; older ones in it are removed.
    """
    root = root_of(script, cwd)
    for older in below.iterdir():
        shutil.rmtree(older, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=below))
    copy = folder / root.name if root.name else folder / "root"
    shutil.copytree(
        root,
        copy,
        ignore=lambda _at, names: [name for name in names if name in LEFT_OUT],
        ignore_dangling_symlinks=True,
    )
    inside = cwd.resolve().is_relative_to(root)
    return WorkingCopy(
        folder,
        copy / cwd.resolve().relative_to(root) if inside else copy,
        copy / script.resolve().relative_to(root),
    )
