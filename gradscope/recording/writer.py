"""Writes a recording: what is given becomes, at each commit, one frame group on disk."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gradscope import __version__
from gradscope.recording import records, shards
from gradscope.recording.claim import claim, unusable
from gradscope.recording.facts import BY_NAME, SCHEMA_VERSION
from gradscope.recording.layout import TABLE_IDS
from gradscope.recording.open_shard import OpenShard
from gradscope.recording.retention import SERIES, Course, Policy
from gradscope.recording.schema import Rows
from gradscope.recording.segments import NO_STEP, pack_block, pack_group

_DTYPES = {name: table.dtype for name, table in BY_NAME.items() if table.rows}


class Writer:
    """Appends the facts of one process to a run folder.

    What was given before a ``commit()`` that has returned survives a kill of the process at any
    later moment (not a loss of power: nothing is forced through the system's cache). A commit is
    read back whole or not at all.

    Once built, no method raises, whatever happens to the disk: the first failure ends the
    recording and is told in ``failed``. Calls from several threads are safe. In a forked process
    the same object writes a shard of its own (``rank0-fork4711``), begun by the first commit
    there; what was not committed at the fork is the parent's, and its files are not touched.

    Attributes:
        folder: the run folder, absolute.
        failed: why nothing is recorded any more, or None.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        rank: int = 0,
        overwrite: bool = False,
        joins: bool = False,
        policy: Policy | None = None,
    ) -> None:
        """Take the folder and begin the shard of ``rank``.

        Args:
            folder: the run folder; it and its parents are made.
            rank: rank of this process; the ranks of one run share the folder.
            overwrite: replace an earlier recording in the folder.
            joins: the folder was claimed for this run already. A shard of ``rank`` that stands
                there is another process's of the same run: then this one's is named as a fork's.
            policy: what is kept of a long run; None for the usual limits.

        Raises:
            RunFolderError: the folder is taken, is being written, or cannot be written to.
        """
        # absolute, because the user's script may change its working directory
        self.folder = Path(folder).absolute()
        self.failed: str | None = None
        self._rank = rank
        self._policy = policy or Policy()
        self._pid = os.getpid()
        self._forked_from: int | None = None
        self._closed = False
        self._committing = False
        # reentrant, because a signal handler may record while its thread is inside a call
        self._lock = threading.RLock()
        self._pending: list[bytes] = []
        self._facts: dict[str, bytes] = {}
        self._course = Course(self._policy)
        self._shard: OpenShard | None = None
        name = shards.shard_name(rank)
        if not joins:
            claim(self.folder, rank, overwrite=overwrite)
        try:
            self._shard = self._joined(name) if joins else self._open(name)
            self._pending = [*self._identity()]
            self._commit()
        except FileExistsError:
            error = OSError(f"another process began {name} there at the same moment")
            raise unusable(self.folder, error) from None
        except OSError as error:
            self._release(complete=False)
            raise unusable(self.folder, error) from error

    def _open(self, name: str) -> OpenShard:
        return OpenShard(self.folder, name, self._policy, forked_from=None)

    def _joined(self, name: str) -> OpenShard:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            if not shards.files_of(self.folder, name):
                return self._open(name)
        except FileExistsError:
            pass  # a sibling was faster
        return self._open(shards.shard_name(self._rank, forked=self._pid))

    def rows(self, table: str, rows: Rows, blob: bytes = b"") -> None:
        """Add rows of a row table.

        Args:
            table: name of the table.
            rows: ``[n]``, of the table's dtype; copied.
            blob: the bytes into which the rows of this call point, for a table that has them.
        """
        self._guarded(lambda: self._add_rows(table, rows, blob))

    def records(self, table: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Add records of a record table; their floats may be NaN or infinite."""
        if items:  # most steps have no event
            self._guarded(lambda: self._add_records(table, items))

    def set(self, key: str, value: Any) -> None:
        """Record a fact about the run, one of ``facts.RUN_KEYS``; the last value holds."""
        self._guarded(lambda: self._set(key, value))

    def commit(self) -> None:
        """Write what was given since the last commit as one group."""
        self._guarded(self._commit)

    def close(self) -> None:
        """Commit, finish the shard and take the alive marker away; further calls do nothing."""
        if os.getpid() != self._pid:
            self._closed = True
            return
        with self._lock:
            if self._committing:
                return  # called by a signal handler: the commit below it needs the files
            if self._shard is not None:
                self.set("finished", _now())
                self.commit()
                self._release(complete=self.failed is None)
            self._closed = True

    # ------------------------------------------------------------------ adding

    def _add_rows(self, table: str, rows: Rows, blob: bytes) -> None:
        if rows.dtype != _DTYPES[table]:
            raise TypeError(f"rows of {table} with the dtype {rows.dtype}")
        for step, part, part_blob in _by_step(rows.ravel(), blob, BY_NAME[table].blob):
            ordinal = self._course.see(SERIES[table], step)
            body = part.tobytes()
            block = pack_block(TABLE_IDS[table], body, part_blob, step=step, ordinal=ordinal)
            self._pending.append(block)

    def _add_records(self, table: str, items: Sequence[Mapping[str, Any]]) -> None:
        if BY_NAME[table].rows:
            raise TypeError(f"records for {table}, which is a table of rows")
        series = SERIES.get(table)
        by_step: dict[int, list[Mapping[str, Any]]] = {}
        for item in items:
            step = NO_STEP if series is None else int(item["step"])
            by_step.setdefault(step, []).append(item)
            if table == "alarms":
                self._course.alarm(int(item["step"]))
        for step, part in by_step.items():
            ordinal = 0 if series is None else self._course.see(series, step)
            body = records.encode(part)
            block = pack_block(TABLE_IDS[table], body, step=step, ordinal=ordinal, compress=True)
            self._pending.append(block)

    def _set(self, key: str, value: Any) -> None:
        block = _fact(key, value)
        # a fact is never thinned, so one that is told again and again must not be stored again
        if self._facts.get(key) != block:
            self._facts[key] = block
            self._pending.append(block)

    def _commit(self) -> None:
        if self._committing:
            return  # called by a signal handler: the commit below it takes along what is new
        self._committing = True
        try:
            while self._pending:
                self._write()
        finally:
            self._committing = False

    def _write(self) -> None:
        blocks, self._pending = self._pending, []
        if self._shard is None:
            name = shards.shard_name(self._rank, forked=self._pid)
            self._shard = OpenShard(self.folder, name, self._policy, self._forked_from)
            blocks = [*self._identity(), *blocks]
        self._shard.append(pack_group(blocks), self._course)

    def _identity(self) -> Iterator[bytes]:
        yield _fact("schema_version", SCHEMA_VERSION)
        yield _fact("version", __version__)
        yield _fact("python", platform.python_version())
        yield _fact("pid", self._pid)
        yield _fact("rank", self._rank)
        yield _fact("started", _now())

    # ------------------------------------------------------------------ safety

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._closed or self.failed is not None:
            return
        try:
            if os.getpid() != self._pid:
                self._become_child()
            with self._lock:
                call()
        except Exception as error:  # the training goes on whatever happens to its recording
            self._fail(error)

    def _become_child(self) -> None:
        # the parent's lock may be held for ever here, and its work is the parent's
        self._lock = threading.RLock()
        self._committing = False
        self._pending, self._facts = [], {}
        self._course = Course(self._policy)
        inherited, self._shard = self._shard, None
        self._forked_from, self._pid = self._pid, os.getpid()
        if inherited is not None:
            inherited.forget()

    def _fail(self, error: Exception) -> None:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        newest = self._course.newest
        since = "" if newest == NO_STEP else f" since step {newest}"
        self.failed = f"nothing is recorded{since}: {type(error).__name__}: {what}"
        self._release(complete=False)

    def _release(self, *, complete: bool) -> None:
        shard, self._shard = self._shard, None
        self._pending = []
        if shard is None:
            return
        try:
            shard.close(complete=complete)
        except Exception as error:  # see _guarded
            self._fail(error)


def _by_step(rows: Rows, blob: bytes, has_blob: bool) -> Iterator[tuple[int, Rows, bytes]]:
    """The rows of each step with their part of the blob; offsets are relative to that part."""
    if not len(rows):
        return
    steps = rows["step"]
    if (steps == steps[0]).all():
        yield int(steps[0]), rows, blob
        return
    for step in np.unique(steps):
        part = rows[steps == step].copy()
        own = bytearray()
        if has_blob:
            for row in part:
                start, length = int(row["offset"]), int(row["length"])
                row["offset"] = len(own)
                own += blob[start : start + length]
        yield int(step), part, bytes(own)


def _fact(key: str, value: Any) -> bytes:
    body = records.encode([{"key": key, "value": value}])
    return pack_block(TABLE_IDS["run"], body, compress=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
