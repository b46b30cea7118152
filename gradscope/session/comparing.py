"""``compare``: runs on disk, judged and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradscope.compare import compare
from gradscope.diagnose.apart.outcome import Comparison
from gradscope.errors import RecordingError, UsageError
from gradscope.recording import shards
from gradscope.session.judging import from_folder

FAIL_ON = ("regression", "difference", "never")


def compare_folders(a: Sequence[str | Path], b: Sequence[str | Path]) -> Comparison:
    """Compare runs on disk.

    Args:
        a: run folders of the first side; a folder that holds run folders stands for all of them.
        b: the same of the second side.

    Raises:
        UsageError: a side without a run.
        RecordingError: a folder holds no recording that can be read.
    """
    sides = [[run for folder in side for run in runs_in(Path(folder))] for side in (a, b)]
    for name, side in zip("AB", sides, strict=True):
        if not side:
            raise UsageError(
                f"side {name} has no run", hint="give two run folders, or --a RUN and --b RUN"
            )
    one, other = ([from_folder(run) for run in side] for side in sides)
    names = [_name(side) for side in (a, b)]
    return compare(one, other, (f"A: {names[0]}", f"B: {names[1]}"))


def exit_code(comparison: Comparison, fail_on: str) -> int:
    """1 where something of the kind ``fail_on`` was found, else 0."""
    if fail_on == "regression":
        return int(bool(comparison.regressions))
    return int(fail_on == "difference" and comparison.apart)


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the run folders in it.

    Raises:
        RecordingError: it is neither.
    """
    try:
        if shards.segments(folder):
            return [folder]
        inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
        found = [entry for entry in inside if shards.segments(entry)]
    except OSError as error:
        raise RecordingError(
            f"{folder} cannot be read as a run folder: {error.strerror or error}",
            hint="give the folder that a run has written",
        ) from error
    if not found:
        raise RecordingError(
            f"{folder} holds no recording", hint="give the folder that a run has written"
        )
    return found


def _name(side: Sequence[str | Path]) -> str:
    first = Path(side[0]).name
    return first if len(side) == 1 else f"{first} and {len(side) - 1} more"
