"""Adds records to a run that has ended: what was found out about it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradscope.recording import records, shards
from gradscope.recording.layout import TABLE_IDS
from gradscope.recording.open_shard import header
from gradscope.recording.segment_file import SegmentFile
from gradscope.recording.segments import pack_block, pack_group

LAST_NUMBER = 10**9 - 1
"""Of nine digits, see ``shards``."""


def append(folder: Path, table: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Add records to the shard of the lowest rank, in a segment of their own.

    What stands in the folder stays bit for bit as it is: the new segment is the one after the
    last. It is there whole or not at all.

    Args:
        folder: a run folder that nobody writes to.
        table: name of a record table.
        items: the records.

    Raises:
        OSError: it cannot be written to, or a process still writes to it.
    """
    there = [one for one in shards.segments(folder) if not shards.is_fork(one.shard)]
    if not there:
        raise FileNotFoundError(f"{folder} holds no recording")
    shard = min((one.shard for one in there), key=shards.rank_of)
    writer = shards.alive(folder, shard)
    if writer is not None:
        raise OSError(f"it is being written by process {writer}")
    # the marker of a writer that was killed stays behind
    shards.marker(folder, shard).unlink(missing_ok=True)
    shards.write_marker(folder, shard)
    try:
        number = 1 + max(one.last for one in there if one.shard == shard)
        if number > LAST_NUMBER:  # no reader would know its name
            raise OSError(f"{folder} holds a segment numbered {number - 1}, the last one possible")
        path = folder / shards.Segment(shard, number, number).file
        block = pack_block(TABLE_IDS[table], records.encode(items), compress=True)
        segment = SegmentFile(path, header(shard))
        try:
            segment.append(pack_group([block]))
            segment.finish()
        except OSError:
            segment.release()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
    finally:
        with contextlib.suppress(OSError):
            shards.marker(folder, shard).unlink()
