"""Whether a run folder may be written to, and clearing it of an earlier recording."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from gradscope.errors import RunFolderError
from gradscope.recording import shards

_BEGAN = time.time()
"""When this process loaded gradscope: dead shards older than this are an earlier run's."""


def claim(folder: Path, rank: int, *, overwrite: bool) -> None:
    """Make ``folder`` ready for a new shard of ``rank``.

    The folder and its parents are made. A recording stands in the way if it has a shard of the
    same rank, or one of any rank that ended before this process began; the ranks of one launch
    start at different moments and do not stand in each other's way.

    Args:
        folder: the run folder.
        rank: rank of the process that wants to write.
        overwrite: remove what stands in the way, unless it is being written. Only gradscope's own
            files are removed.

    Raises:
        RunFolderError: it is no folder, cannot be made or listed, or is taken.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = _in_the_way(folder, rank)
    except FileExistsError:
        raise RunFolderError(
            f"the run folder {folder} is a file", hint="give a folder that does not exist yet"
        ) from None
    except OSError as error:
        raise unusable(folder, error) from error
    for shard in earlier:
        pid = shards.alive(folder, shard)
        if pid is not None:
            raise RunFolderError(
                f"the run folder {folder} is being written by process {pid}",
                hint="give another folder, or wait until that run ends; overwriting is refused",
            )
    if earlier and not overwrite:
        raise RunFolderError(
            f"the run folder {folder} already holds a recording ({', '.join(earlier)})",
            hint="give another folder, or replace it with overwrite=True (--overwrite)",
        )
    try:
        for shard in earlier:
            for path in shards.files_of(folder, shard):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        # the marker of a writer that was killed before its first segment
        shards.marker(folder, shards.shard_name(rank)).unlink(missing_ok=True)
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(folder: Path, error: OSError) -> RunFolderError:
    """The error for a run folder that the system refuses."""
    return RunFolderError(
        f"the run folder {folder} cannot be written to: {error.strerror or error}",
        hint="give a folder that you may write to",
    )


def _in_the_way(folder: Path, rank: int) -> list[str]:
    found = {segment.shard for segment in shards.segments(folder)}
    mine = shards.shard_name(rank)
    if shards.alive(folder, mine) is not None:
        found.add(mine)
    return sorted(
        shard
        for shard in found
        if shards.rank_of(shard) == rank
        or (shards.alive(folder, shard) is None and shards.last_written(folder, shard) < _BEGAN)
    )
