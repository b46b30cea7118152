"""The files of a run folder: shards, their segments, and the markers of live writers.

A shard is what one process of one rank wrote: ``rank0``, or ``rank0-fork4711`` for a process that
was forked from it. Its segments are named by the range of segment numbers that they cover,
``rank0.000004-000007.frames``; retention merges neighbours under a wider range, and the wider name
wins until the narrower files are gone. ``rank0.alive`` stands there while the shard is written.

Names come from listing the folder and match a strict pattern, and links are not followed: nothing
outside the folder is read or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope.recording.processes import runs_since

_SEGMENT = re.compile(r"(rank[0-9]{1,6}(?:-fork[0-9]{1,10})?)\.([0-9]{6,9})-([0-9]{6,9})\.frames")
_OTHER = re.compile(r"(rank[0-9]{1,6}(?:-fork[0-9]{1,10})?)\.(?:alive|[0-9]{6,9}-[0-9]{6,9}\.part)")
_RANK = re.compile(r"rank([0-9]{1,6})(-fork[0-9]{1,10})?")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_MAX_MARKER = 4_096
_SILENT_SECONDS = 600
"""A writer on another host, whose process cannot be asked for, counts as alive this long."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Name of a segment file."""

    shard: str
    first: int
    last: int

    @property
    def file(self) -> str:
        """File name in the run folder."""
        return f"{self.stem}.frames"

    @property
    def part(self) -> str:
        """Name of the file while it is rewritten; readers pass over it."""
        return f"{self.stem}.part"

    @property
    def stem(self) -> str:
        """Name without suffix."""
        return f"{self.shard}.{self.first:06d}-{self.last:06d}"


def shard_name(rank: int, forked: int | None = None) -> str:
    """Name of the shard of a rank, or of process ``forked`` that was forked from it."""
    return f"rank{rank}" if forked is None else f"rank{rank}-fork{forked}"


def rank_of(shard: str) -> int:
    """Rank of a shard by its name."""
    match = _RANK.fullmatch(shard)
    if match is None:
        raise ValueError(shard)
    return int(match[1])


def is_fork(shard: str) -> bool:
    """Whether the shard is a forked process's."""
    return "-fork" in shard


def segments(folder: Path) -> list[Segment]:
    """Segment files in ``folder``, sorted; links and other names are passed over."""
    found: list[Segment] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _SEGMENT.fullmatch(entry.name)
            if match and entry.is_file(follow_symlinks=False):
                segment = Segment(match[1], int(match[2]), int(match[3]))
                if segment.file == entry.name and segment.first <= segment.last:
                    found.append(segment)
    return sorted(found)


def widest(found: Sequence[Segment]) -> tuple[list[Segment], list[int]]:
    """Segments of one shard without those that a merged one covers, and the numbers missing.

    Returns:
        The segments to read, in order, and the first number of each gap between them.
    """
    chosen: list[Segment] = []
    gaps: list[int] = []
    following = 0
    for segment in sorted(found, key=lambda s: (s.first, -s.last)):
        if segment.last < following:
            continue
        if segment.first > following:
            gaps.append(following)
        chosen.append(segment)
        following = segment.last + 1
    return chosen, gaps


def files_of(folder: Path, shard: str) -> list[Path]:
    """Every file in ``folder`` that gradscope wrote for ``shard``."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _SEGMENT.fullmatch(entry.name) or _OTHER.fullmatch(entry.name)
            if match and match[1] == shard and entry.is_file(follow_symlinks=False):
                found.append(folder / entry.name)
    return found


def last_written(folder: Path, shard: str) -> float:
    """Newest modification time of the shard's files, seconds since the epoch; 0 if it has none."""
    times = [0.0]
    for path in files_of(folder, shard):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


# ---------------------------------------------------------------------- liveness


def marker(folder: Path, shard: str) -> Path:
    """Path of the shard's alive marker."""
    return folder / f"{shard}.alive"


def write_marker(folder: Path, shard: str) -> None:
    """Say that this process writes ``shard``.

    Raises:
        FileExistsError: another process was faster.
        OSError: the folder cannot be written to.
    """
    pid = os.getpid()
    facts = {"pid": pid, "host": platform.node(), "started": runs_since(pid)[1]}
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
    descriptor = os.open(marker(folder, shard), flags, 0o644)
    try:
        os.write(descriptor, json.dumps(facts).encode())
    except OSError:
        marker(folder, shard).unlink()
        raise
    finally:
        os.close(descriptor)


def alive(folder: Path, shard: str) -> int | None:
    """Process id of the shard's writer, None if it ended (or never wrote).

    The marker of a process that was killed stays behind: it counts only while a process of that
    id, begun at the same time, exists.
    """
    try:
        facts = json.loads(read_file(marker(folder, shard), _MAX_MARKER))
        pid, host, started = int(facts["pid"]), facts["host"], facts["started"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not 0 < pid < 2**31:
        return None
    if host != platform.node():
        silent = time.time() - last_written(folder, shard)
        return pid if silent < _SILENT_SECONDS else None
    runs, now_started = runs_since(pid)
    return pid if runs and started == now_started else None


def read_file(path: Path, limit: int) -> bytes:
    """Content of a regular file of at most ``limit`` bytes; links are not followed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError(f"{path.name} is no file of at most {limit:,} bytes")
        return file.read(status.st_size)
