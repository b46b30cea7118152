"""The frame format of a recording's segment files.

A segment is a sequence of *groups*; what one commit wrote is one group, and a group is read back
whole or not at all. A group is a sequence of *blocks*, each with the rows or records of one table
and of one step::

    group   magic "gsG1" | bytes of the blocks u32 | crc32 of the 8 bytes before u32 | blocks
    block   table u8 | flags u8 | 0 u16 | step i64 | ordinal u32 | bytes of the body u32
            | bytes of the blob u32 | bytes of the body before compression u32
            | crc32 of head (without this field), body and blob u32 | body | blob

All numbers are little-endian. Each block carries its own checksum, so that retention can move it
to another file without touching its content: a byte that rots stays found out. The first group of
a file holds one block of table ``HEADER`` (JSON: who wrote it, and the schema as written), the last
one of a finished file one block of table ``END`` whose ordinal is the number of groups between.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAGIC = b"gsG1"
HEADER = 0
END = 255
NO_STEP = -(2**63)
"""Step of a block that belongs to no step."""
MAX_GROUP = 2**28
"""Bytes in one group at most; a commit beyond it is refused by the writer."""
MAX_RATIO = 64
"""A compressed body is never stored below 1/64 of its size, so a reader can refuse a bomb."""
_WORTH = 512
"""Bodies below this many bytes are not worth the compressor's call."""
_COMPRESSED = 1

_GROUP = struct.Struct("<4sII")
_BLOCK = struct.Struct("<BBHqIIIII")
_CRC = struct.Struct("<I")
GROUP_HEAD = _GROUP.size
BLOCK_HEAD = _BLOCK.size


class BlockHead(NamedTuple):
    """Head of a block and the place of the whole block in its group's payload."""

    table: int
    flags: int
    step: int
    ordinal: int
    body: int
    blob: int
    raw: int
    crc: int
    start: int
    end: int


class Block(NamedTuple):
    """A block whose checksum was right; ``body`` is still compressed if ``compressed``."""

    table: int
    step: int
    ordinal: int
    body: memoryview
    blob: memoryview
    raw: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes ``start`` to ``end`` of a file that hold no valid group; ``torn``: they are its end."""

    start: int
    end: int
    torn: bool


# ---------------------------------------------------------------------- writing


def pack_block(
    table: int,
    body: bytes,
    blob: bytes = b"",
    *,
    step: int = NO_STEP,
    ordinal: int = 0,
    compress: bool = False,
) -> bytes:
    """One block as bytes.

    Args:
        table: id of the table in the segment's header, or ``HEADER`` or ``END``.
        body: packed rows, or JSON.
        blob: bytes into which the rows point.
        step: the step that the whole block belongs to.
        ordinal: running number of that step among the steps with such a table (see retention.py).
        compress: whether to try to compress the body.
    """
    raw, flags = len(body), 0
    if compress and raw >= _WORTH:
        smaller = zlib.compress(body, 1)
        if len(smaller) < raw <= MAX_RATIO * len(smaller):
            body, flags = smaller, _COMPRESSED
    fields = (table, flags, 0, step, ordinal, len(body), len(blob), raw)
    head = _BLOCK.pack(*fields, 0)[: -_CRC.size]
    crc = zlib.crc32(blob, zlib.crc32(body, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), body, blob))


def pack_group(blocks: Sequence[bytes | memoryview]) -> bytes:
    """A group of finished blocks as bytes."""
    head = MAGIC + _CRC.pack(sum(map(len, blocks)))
    return b"".join((head, _CRC.pack(zlib.crc32(head)), *blocks))


# ---------------------------------------------------------------------- reading


def payload_size(head: bytes | memoryview) -> int | None:
    """Bytes of the blocks behind a group's head; None if these bytes are no valid head."""
    if len(head) < GROUP_HEAD:
        return None
    magic, size, crc = _GROUP.unpack_from(head)
    if magic != MAGIC or zlib.crc32(head[: GROUP_HEAD - _CRC.size]) != crc:
        return None
    return int(size)


def block_heads(payload: bytes | memoryview) -> list[BlockHead] | None:
    """Heads of a group's blocks, content not checked; None if they do not fill the payload."""
    heads: list[BlockHead] = []
    position = 0
    while position < len(payload):
        if position + BLOCK_HEAD > len(payload):
            return None
        table, flags, _, step, ordinal, body, blob, raw, crc = _BLOCK.unpack_from(payload, position)
        end = position + BLOCK_HEAD + body + blob
        if end > len(payload):
            return None
        heads.append(BlockHead(table, flags, step, ordinal, body, blob, raw, crc, position, end))
        position = end
    return heads


def read_groups(data: bytes) -> Iterator[list[Block] | Gap]:
    """Groups of a file in order, and the gaps between them.

    Every byte is looked at a bounded number of times and nothing is allocated from a length that
    the file states, so a forged file costs no more than its size.

    Args:
        data: the whole file.
    """
    view = memoryview(data)
    position = 0
    bad_since: int | None = None
    while position < len(data):
        size = payload_size(view[position : position + GROUP_HEAD])
        end = len(data) + 1 if size is None else position + GROUP_HEAD + size
        blocks = _blocks(view[position + GROUP_HEAD : end]) if end <= len(data) else None
        if blocks is not None:
            if bad_since is not None:
                yield Gap(bad_since, position, torn=False)
                bad_since = None
            yield blocks
            position = end
            continue
        if bad_since is None:
            bad_since = position
        if size is None:
            found = data.find(MAGIC, position + 1)
            position = len(data) if found < 0 else found
        else:
            # a head that is right is believed: what it covers is one broken or torn group
            position = end
    if bad_since is not None:
        yield Gap(bad_since, len(data), torn=True)


def unpack_body(block: Block) -> bytes:
    """The body as it was given to ``pack_block``.

    Raises:
        ValueError: it does not decompress to the size that the block states.
    """
    if not block.compressed:
        return bytes(block.body)
    if block.raw > MAX_RATIO * len(block.body):
        raise ValueError("compressed beyond what a writer would")
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(block.body, block.raw + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(body) != block.raw:
        raise ValueError("wrong size after decompression")
    return body


def _blocks(payload: memoryview) -> list[Block] | None:
    heads = block_heads(payload)
    if heads is None:
        return None
    blocks: list[Block] = []
    for head in heads:
        covered = head.start + BLOCK_HEAD
        crc = zlib.crc32(payload[head.start : covered - _CRC.size])
        if zlib.crc32(payload[covered : head.end], crc) != head.crc:
            return None
        blocks.append(
            Block(
                head.table,
                head.step,
                head.ordinal,
                payload[covered : covered + head.body],
                payload[covered + head.body : head.end],
                head.raw,
                bool(head.flags & _COMPRESSED),
            )
        )
    return blocks
