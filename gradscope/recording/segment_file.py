"""One open segment file: whole groups are appended, or nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gradscope.recording.segments import END, pack_block, pack_group


class SegmentFile:
    """A segment that is being written.

    Attributes:
        path: its file.
        size: bytes in it.
        groups: groups after the header's.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        """Create the file, which must not exist, with its header group.

        Raises:
            OSError: it cannot be created or written.
        """
        self.path = path
        self.size = 0
        self.groups = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags, 0o644)
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        try:
            self.append(header)
        except OSError:
            self.release()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def append(self, group: bytes) -> None:
        """Write a group; on failure the file is as it was before.

        Raises:
            OSError: it could not be written whole, or the file is gone.
        """
        status = os.fstat(self._descriptor)
        if (status.st_dev, status.st_ino) != self._identity:
            # writing would hit whatever the user's code opened under the same number since
            self._descriptor = -1
            raise OSError(f"the descriptor of {self.path.name} was closed by other code")
        if status.st_nlink == 0:
            raise OSError(f"{self.path} was deleted")
        rest = memoryview(group)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(group)
        self.groups += 1

    def finish(self) -> None:
        """Write the end group, which says how many groups there are, and close.

        Raises:
            OSError: it could not be written.
        """
        try:
            self.append(end_group(self.groups))
        finally:
            self.release()

    def release(self) -> None:
        """Close without an end group; never raises."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == self._identity:
                    os.close(descriptor)


def end_group(groups: int) -> bytes:
    """The last group of a finished segment with ``groups`` groups after its header."""
    return pack_group([pack_block(END, b"", ordinal=groups)])
