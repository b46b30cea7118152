"""TensorBoard's event files, written with the standard library alone.

A file is a row of TFRecords, each an ``Event`` message of TensorBoard's protocol buffers
(tensorboard/compat/proto/event.proto and summary.proto; the few fields used are written out here).
A record is: length (uint64), masked CRC-32C of those eight bytes, the message, its masked CRC-32C;
all little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO


class EventFile:
    """A new event file of scalars; use it as a context manager."""

    def __init__(self, path: Path, started: float) -> None:
        """Open ``path``, whose name must hold ``tfevents`` for TensorBoard to find it.

        Args:
            path: the file; it must not exist.
            started: seconds since 1970 at which the run began.
        """
        self._file: BinaryIO = path.open("xb")
        self._write(_double(1, started) + _bytes(3, b"brain.Event:2"))

    def scalars(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Write values of one step.

        Args:
            step: the optimizer step.
            time: seconds since 1970.
            values: value by tag; stored as float32, as TensorBoard does.
        """
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode("utf-8", "replace")) + _float(2, value))
            for tag, value in values.items()
        )
        self._write(_double(1, time) + _varint_field(2, step) + _bytes(5, summary))

    def _write(self, message: bytes) -> None:
        length = struct.pack("<Q", len(message))
        self._file.write(length + _masked(length) + message + _masked(message))

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1  # protocol buffers write a negative int64 as its two's complement
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        # larger than any float32: what a float32 conversion gives
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _varint(number << 3 | 5) + packed


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        for _ in range(8):
            # 0x82F63B78: Castagnoli's polynomial, bits reversed (RFC 3720, B.4)
            byte = byte >> 1 ^ 0x82F63B78 if byte & 1 else byte >> 1
        entries.append(byte)
    return tuple(entries)


_CRC32C = _table()


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    # TFRecord's mask, so that a checksum of data that hold a checksum stays good
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
