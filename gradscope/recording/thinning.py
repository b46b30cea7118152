"""Thins and merges the finished segments of a long run, a little at each commit.

The work is a generator that is advanced after each commit by an allowance of bytes in proportion
to what the commit wrote. So no step pays for more than a few times its own bytes, and the work is
always done before the next lot is due: every byte is read once when its segment leaves the last
steps, and the middle, which is bounded, once more each time the stride doubles.

A segment is rewritten beside (``.part``) under the name that covers all its sources, renamed, and
the sources are removed afterwards: at every moment the widest names hold everything once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradscope.recording.retention import NUMBER_OF_SERIES, Course, Mark, Plan, Policy
from gradscope.recording.segment_file import SegmentFile, end_group
from gradscope.recording.segments import END, GROUP_HEAD, block_heads, pack_group, payload_size
from gradscope.recording.shards import Segment

_SHARE = 3
"""Bytes of old groups that may be moved for each byte that a commit writes."""
_LEAST = 4_096
"""Bytes that may be moved after the smallest commit."""
_GROUP_COST = 1_024
"""What the handling of one group counts as, in bytes."""
_BUFFER = 2**16


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished segment.

    Attributes:
        name: its name.
        size: bytes.
        last_step: the newest step in it.
        ordinals: for each series the running number of its newest step.
        strides: how it has been thinned so far.
    """

    name: Segment
    size: int
    last_step: int
    ordinals: tuple[int, ...]
    strides: tuple[int, ...] = (1,) * NUMBER_OF_SERIES


class Thinner:
    """Keeps the finished segments of one shard within the policy's limits."""

    def __init__(
        self, folder: Path, header: bytes, policy: Policy, series: Mapping[int, int]
    ) -> None:
        """Start with no segments.

        Args:
            folder: the run folder.
            header: header group of every segment of this shard.
            policy: the limits.
            series: series of each table id, see ``retention.SERIES``.
        """
        self._folder = folder
        self._header = header
        self._policy = policy
        self._series = series
        self._segments: list[Finished] = []
        self._work: Generator[int, None, None] | None = None
        self._part: Path | None = None
        self._credit = 0
        self._idle = True

    def add(self, segment: Finished) -> None:
        """Take over a segment that has just been finished."""
        self._segments.append(segment)
        self._idle = False

    def advance(self, written: int, course: Course) -> None:
        """Do the share of work that a commit of ``written`` bytes pays for.

        Raises:
            OSError: a file could not be read or written.
        """
        if self._idle:
            return
        self._credit = min(self._credit, 0) + _SHARE * written + _LEAST
        while self._credit > 0:
            if self._work is None:
                job = self._next(course)
                if job is None:
                    self._idle = True
                    return
                self._work = self._rewrite(*job)
            cost = next(self._work, None)
            if cost is None:
                self._work = None
            else:
                self._credit -= cost

    def abandon(self) -> None:
        """Drop work that is not finished; what stands on disk is complete without it."""
        self._idle = True
        if self._work is not None:
            self._work.close()
            self._work = None
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()

    def _next(self, course: Course) -> tuple[slice, Plan] | None:
        """The next run of segments to rewrite to one, and the plan for it."""
        start = end = 0
        for position, segment in enumerate(self._segments):
            if segment.last_step < course.head_end:
                start = position + 1
            elif segment.last_step > course.newest - self._policy.last:
                break
            end = position + 1
        if start == end:
            return None
        plan = course.plan(self._segments[end - 1].ordinals)
        for position in range(start, end):
            if self._segments[position].strides != plan.strides:
                before = position - 1
                small = self._policy.segment_bytes // 2
                merge = before >= start and self._segments[before].size < small
                return slice(before if merge else position, position + 1), plan
        return None

    def _rewrite(self, span: slice, plan: Plan) -> Generator[int, None, None]:
        """Rewrite the segments ``span`` to one; yields the cost of each group."""
        sources = self._segments[span]
        name = Segment(sources[0].name.shard, sources[0].name.first, sources[-1].name.last)
        self._part = self._folder / name.part
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()
        target = SegmentFile(self._part, self._header)
        groups, buffer, size = 0, bytearray(), 0
        try:
            for source in sources:
                for kept, cost in self._kept(self._folder / source.name.file, plan):
                    buffer += kept
                    groups += bool(kept)
                    if len(buffer) >= _BUFFER:
                        target.append(bytes(buffer))
                        buffer.clear()
                    yield cost
            target.append(bytes(buffer) + end_group(groups))
            size = target.size
        finally:
            target.release()
        # the rename is the moment of truth; before it the sources count, after it the new file
        self._part.replace(self._folder / name.file)
        self._part = None
        last = sources[-1]
        # segments have only been added behind the span meanwhile
        self._segments[span] = [Finished(name, size, last.last_step, last.ordinals, plan.strides)]
        for source in sources:
            if source.name != name:
                (self._folder / source.name.file).unlink()

    def _kept(self, path: Path, plan: Plan) -> Generator[tuple[bytes, int], None, None]:
        """What is kept of each group of a file, b"" if nothing, and what the look cost."""
        with path.open("rb", buffering=0) as file:
            is_header = True
            while head := file.read(GROUP_HEAD):
                size = payload_size(head)
                if size is None:
                    # bytes that rotted on disk are carried along, for the reader to report
                    rest = head + file.read()
                    yield rest, len(rest)
                    return
                payload = file.read(size)
                yield b"" if is_header else self._filter(head, payload, plan), size + _GROUP_COST
                is_header = False

    def _filter(self, head: bytes, payload: bytes, plan: Plan) -> bytes:
        heads = block_heads(payload)
        if heads is None:
            return head + payload
        if heads and heads[0].table == END:
            return b""
        marks = [Mark(self._series.get(h.table), h.step, h.ordinal) for h in heads]
        keeps = plan.keeps(marks)
        if all(keeps):
            return head + payload
        view = memoryview(payload)
        kept = [view[h.start : h.end] for h, keep in zip(heads, keeps, strict=True) if keep]
        return pack_group(kept) if kept else b""
