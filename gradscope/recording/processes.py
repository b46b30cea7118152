"""Processes of this machine: whether one still runs, and when it began."""

from __future__ import annotations

import os
from pathlib import Path


def runs_since(pid: int) -> tuple[bool, int | None]:
    """Whether a process exists and is no zombie, and its start in clock ticks where known.

    A process id is used again some time after its process has ended; with the start beside it a
    process is known for certain. The start comes from Linux's ``/proc`` and is None elsewhere.
    """
    if os.name != "posix":
        # there is no harmless question to ask there: a process counts as running
        return True, None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False, None
    except PermissionError:
        pass  # it exists and is another user's
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True, None
    # the command's name, in parentheses, may hold anything: fields are counted behind it
    fields = line.rpartition(b")")[2].split()
    return fields[0] not in (b"Z", b"X"), int(fields[19])


def start_time(pid: int) -> float | None:
    """When a process began, in seconds since the epoch (to a hundredth); None if not known."""
    _, ticks = runs_since(pid)
    if ticks is None:
        return None
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return None
