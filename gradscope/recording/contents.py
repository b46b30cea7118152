"""The content of segment files: from bytes to the tables of a recording."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradscope.recording import records
from gradscope.recording.facts import BY_NAME
from gradscope.recording.layout import FORMAT, Stored, conform, restore
from gradscope.recording.schema import Rows
from gradscope.recording.segments import END, HEADER, Block, Gap, read_groups, unpack_body


@dataclass(slots=True)
class Contents:
    """What one segment file holds.

    Attributes:
        blocks: its blocks in order, each with the table as the file's header describes it.
        problems: what could not be read, as phrases.
        torn: bytes at the end that are no whole group.
        ended: whether the end group was there.
        readable: whether the header was there and of a format that this version knows. A file
            whose very header is an unfinished write is not readable and has no problem either.
    """

    blocks: list[tuple[Stored, Block]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    torn: int = 0
    ended: bool = False
    readable: bool = False


@dataclass(slots=True)
class Tables:
    """The tables of a shard, as ``Recording`` takes them; ``problems`` as phrases."""

    rows: dict[str, Rows] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def parse(data: bytes) -> Contents:
    """Read a segment file."""
    contents = Contents()
    tables: dict[int, Stored] = {}
    groups, broken = 0, 0
    for number, item in enumerate(read_groups(data)):
        if isinstance(item, Gap):
            if item.torn:
                contents.torn = item.end - item.start
            else:
                broken += item.end - item.start
        elif number == 0:
            try:
                tables = _header(item)
            except ValueError as error:
                contents.problems.append(f"it cannot be read: {error}")
                return contents
            contents.readable = True
        elif item and item[0].table == END:
            contents.ended = True
            if item[0].ordinal != groups:
                contents.problems.append(f"{item[0].ordinal} commits were written, {groups} read")
        else:
            groups += 1
            known = (block for block in item if block.table in tables)
            contents.blocks.extend((tables[block.table], block) for block in known)
    if not contents.readable and contents.torn < len(data):
        contents.problems.append("it cannot be read: its beginning is damaged")
    elif broken:
        contents.problems.append(f"{broken:,} bytes are damaged and were passed over")
    return contents


def gather(segments: Sequence[Contents]) -> Tables:
    """Put the blocks of a shard's segments together, table by table."""
    tables = Tables()
    pieces: dict[str, list[tuple[Stored, list[Block]]]] = {}
    for contents in segments:
        for stored, block in contents.blocks:
            parts = pieces.setdefault(stored.table.name, [])
            if not parts or parts[-1][0].dtype != stored.dtype:
                parts.append((stored, []))
            parts[-1][1].append(block)
    for name, parts in pieces.items():
        table = BY_NAME[name]
        if table.blob:
            rows, tables.blobs[name], bad = _rows_with_blobs(parts)
        elif table.rows:
            rows, bad = _rows(parts)
        else:
            tables.records[name], bad = _records(parts)
            rows = None
        if rows is not None:
            tables.rows[name] = rows
        if bad:
            tables.problems.append(f"{bad:,} pieces of table {name} are damaged and left out")
    return tables


def _header(blocks: list[Block]) -> dict[int, Stored]:
    if len(blocks) != 1 or blocks[0].table != HEADER:
        raise ValueError("it does not begin with a header")
    try:
        facts = json.loads(unpack_body(blocks[0]))
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        seen = facts.get("format") if isinstance(facts, dict) else None
        raise ValueError(f"its format is {seen!r:.40}; this version of gradscope reads {FORMAT}")
    return restore(facts.get("tables"))


def _rows(parts: list[tuple[Stored, list[Block]]]) -> tuple[Rows, int]:
    arrays: list[Rows] = []
    bad = 0
    for stored, blocks in parts:
        assert stored.dtype is not None
        whole = [b.body for b in blocks if len(b.body) % stored.dtype.itemsize == 0]
        bad += len(blocks) - len(whole)
        arrays.append(conform(np.frombuffer(b"".join(whole), stored.dtype), stored.table))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays), bad


def _rows_with_blobs(parts: list[tuple[Stored, list[Block]]]) -> tuple[Rows, bytes, int]:
    arrays: list[Rows] = []
    blobs: list[memoryview] = []
    size = bad = 0
    for stored, blocks in parts:
        for block in blocks:
            rows, _ = _rows([(stored, [block])])
            if not len(rows) or not _inside(rows, len(block.blob)):
                bad += 1
                continue
            shifted = rows.copy()
            shifted["offset"] += size
            arrays.append(shifted)
            blobs.append(block.blob)
            size += len(block.blob)
    table = parts[0][0].table
    return np.concatenate(arrays) if arrays else np.zeros(0, table.dtype), b"".join(blobs), bad


def _inside(rows: Rows, size: int) -> bool:
    """Whether every row points into its blob, with no more units than the bits it points at."""
    start, length, units = (
        rows[name].astype(np.int64) for name in ("offset", "length", "looked_at")
    )
    return bool(
        np.all((start >= 0) & (length >= 0) & (start <= size - length))
        and np.all((units >= 0) & (units <= 8 * length))
    )


def _records(parts: list[tuple[Stored, list[Block]]]) -> tuple[list[dict[str, Any]], int]:
    items: list[dict[str, Any]] = []
    bad = 0
    for stored, blocks in parts:
        for block in blocks:
            try:
                found = records.decode(unpack_body(block))
            except ValueError:
                bad += 1
                continue
            good = (
                [item for item in found if records.valid(item, stored.table)]
                if isinstance(found, list)
                else []
            )
            bad += len(found) - len(good) if isinstance(found, list) else 1
            items.extend(good)
    return items, bad
