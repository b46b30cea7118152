"""A shard that is being written: its marker, its current segment, its finished segments."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path

from gradscope import __version__
from gradscope.recording import shards
from gradscope.recording.facts import SCHEMA_VERSION
from gradscope.recording.layout import FORMAT, TABLE_IDS, describe
from gradscope.recording.retention import SERIES, Course, Policy
from gradscope.recording.segment_file import SegmentFile
from gradscope.recording.segments import HEADER, MAX_GROUP, pack_block, pack_group
from gradscope.recording.thinning import Finished, Thinner

_SERIES_BY_ID: dict[int, int] = {TABLE_IDS[name]: series for name, series in SERIES.items()}


class OpenShard:
    """The files of one shard while its process lives."""

    def __init__(self, folder: Path, name: str, policy: Policy, forked_from: int | None) -> None:
        """Set the marker and begin the first segment.

        Args:
            folder: the run folder, which exists.
            name: the shard's name, see shards.py.
            policy: what is kept of a long run.
            forked_from: process id of the parent, in a forked process.

        Raises:
            OSError: the files cannot be made.
        """
        self._folder = folder
        self._name = name
        self._policy = policy
        self._number = 0
        self._header = header(name, forked_from)
        self._thinner = Thinner(folder, self._header, policy, _SERIES_BY_ID)
        shards.write_marker(folder, name)
        try:
            self._file = self._segment()
        except OSError:
            self._remove_marker()
            raise

    def append(self, group: bytes, course: Course) -> None:
        """Write a group, then do its share of the thinning.

        Raises:
            OSError: it could not be written.
        """
        if len(group) > MAX_GROUP:
            raise OSError(f"a commit of {len(group):,} bytes is more than {MAX_GROUP:,}")
        if self._file.groups and self._file.size + len(group) > self._policy.segment_bytes:
            self._file.finish()
            name = shards.Segment(self._name, self._number, self._number)
            ordinals = tuple(course.ordinals)
            self._thinner.add(Finished(name, self._file.size, course.newest, ordinals))
            self._number += 1
            self._file = self._segment()
        self._file.append(group)
        self._thinner.advance(len(group), course)

    def close(self, *, complete: bool) -> None:
        """Close the files and take the marker away; ``complete``: everything was written.

        Raises:
            OSError: the end could not be written; all is closed nevertheless.
        """
        try:
            if complete:
                self._file.finish()
        finally:
            self._file.release()
            self._thinner.abandon()
            self._remove_marker()

    def forget(self) -> None:
        """Close the inherited descriptor in a forked process; the files are the parent's."""
        self._file.release()

    def _segment(self) -> SegmentFile:
        name = shards.Segment(self._name, self._number, self._number)
        return SegmentFile(self._folder / name.file, self._header)

    def _remove_marker(self) -> None:
        with contextlib.suppress(OSError):
            shards.marker(self._folder, self._name).unlink()


def header(name: str, forked_from: int | None = None) -> bytes:
    """The first group of each segment of a shard."""
    facts = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "rank": shards.rank_of(name),
        "pid": os.getpid(),
        "host": platform.node(),
        "forked_from": forked_from,
        "began": time.time(),
        "tables": describe(),
    }
    return pack_group([pack_block(HEADER, json.dumps(facts).encode(), compress=True)])
