"""Where a recording goes when nobody said where."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path

from gradscope.errors import RunFolderError
from gradscope.recording.processes import start_time

_HOME = ".gradscope"
_MAX_NAME = 60
_given: Counter[str] = Counter()


def default_folder(target: str) -> Path:
    """A new folder's path ``.gradscope/<script>-<UTC>-<pid>`` below the working directory.

    ``.gradscope`` is made, with a ``.gitignore`` that keeps it out of version control; the run
    folder itself is made by the writer. Under a launcher of several ranks (``WORLD_SIZE`` above 1)
    time and process id are the launcher's, so that all ranks of a machine share the folder.

    Args:
        target: what is watched: ``model.py``, ``model.py:net``, a module or a class name.

    Raises:
        RunFolderError: ``.gradscope`` cannot be made here.
    """
    home = Path.cwd() / _HOME
    try:
        home.mkdir(exist_ok=True)
        ignore = home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            f"no folder for recordings can be made at {home}: {error.strerror or error}",
            hint="say where the recording goes: run_dir= (--run-dir)",
        ) from error
    pid, when = os.getpid(), time.time()
    if _world_size() > 1:
        pid = os.getppid()
        when = start_time(pid) or 0.0
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when)) if when else "launch"
    name = f"{_stem(target)}-{stamp}-{pid}"
    if (restarts := os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) != "0":
        # the launcher is the same, the run another one
        name = f"{name}-restart{restarts}"
    _given[name] += 1
    # a second recording of one process within a second; on ranks: the second of each rank
    return home / (name if _given[name] == 1 else f"{name}-{_given[name]}")


def _stem(target: str) -> str:
    file = re.sub(r"\.py(:.*)?$", "", target)
    name = re.split(r"[/\\]", file)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:_MAX_NAME] or "run"


def _world_size() -> int:
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 1
