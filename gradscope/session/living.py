"""``live``: follows a training that another process runs, by reading what it has written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradscope.diagnose.finding import Finding
from gradscope.diagnose.now import Now, now
from gradscope.errors import GradscopeError, RecordingError
from gradscope.recording import shards
from gradscope.recording.load import load_run
from gradscope.session.judging import judge

JUDGE_EVERY = 5.0
"""Seconds between two judgements of a running training."""
SHARE = 0.1
"""Most of the time that reading may take, and judging: the training should not feel it."""


@dataclass(frozen=True)
class Seen:
    """One look at a run.

    Attributes:
        now: how it stands.
        findings: what the rules say so far; None: not judged yet.
        name: of the run folder.
    """

    now: Now
    findings: tuple[Finding, ...] | None
    name: str


def run_folder(folder: Path, wait: float = 0.0) -> Path:
    """The run folder itself, or the newest one in a folder that holds run folders.

    Args:
        folder: where to look.
        wait: seconds to wait for a recording that has not begun yet.

    Raises:
        RecordingError: there is none.
    """
    until = time.monotonic() + wait
    while True:
        try:
            found = _run_folder(folder)
            # a recording is there when its first frame is
            load_run(found)
        except RecordingError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)
        else:
            return found


def _run_folder(folder: Path) -> Path:
    try:
        if shards.segments(folder):
            return folder
        inside = [e for e in folder.iterdir() if e.is_dir() and shards.segments(e)]
    except OSError as error:
        raise RecordingError(
            f"{folder} cannot be read as a run folder: {error.strerror or error}",
            hint="give the folder that a run writes, or one that holds run folders",
        ) from error
    if not inside:
        raise RecordingError(
            f"{folder} holds no recording yet",
            hint="give the folder that a run writes, or one that holds run folders",
        )
    return max(inside, key=_newest)


def _newest(folder: Path) -> float:
    names = {segment.shard for segment in shards.segments(folder)}
    return max((shards.last_written(folder, name) for name in names), default=0.0)


def look(folder: Path, *, judged: bool = True) -> Seen:
    """One look at a run, and what the rules say of it.

    Raises:
        RecordingError: the folder holds no recording that can be read.
    """
    recording = load_run(folder)
    findings = judge(recording).findings if judged else None
    return Seen(now(recording), findings, folder.name)


def follow(folder: Path, every: float) -> Iterator[Seen]:
    """Look at a run until it is over; the last look is of its end.

    Reading takes at most a tenth of the time, however large the recording has grown, and judging
    another tenth: it does not hold up the next look.

    Args:
        folder: the run folder.
        every: seconds between two looks, at least.

    Raises:
        RecordingError: the folder holds no recording, or has gone.
    """
    findings: tuple[Finding, ...] | None = None
    due = 0.0
    while True:
        began = time.monotonic()
        recording = load_run(folder)
        state = now(recording)
        took = time.monotonic() - began
        if began >= due or state.over:
            findings = _judged(recording, findings)
            due = began + max(JUDGE_EVERY, (time.monotonic() - began) / SHARE)
        yield Seen(state, findings, folder.name)
        if state.over:
            return
        time.sleep(max(every, took / SHARE - took))


def _judged(recording: object, before: tuple[Finding, ...] | None) -> tuple[Finding, ...] | None:
    try:
        return judge(recording).findings  # type: ignore[arg-type]
    except GradscopeError:
        # settings that this version does not know: the view goes on without findings
        return before
