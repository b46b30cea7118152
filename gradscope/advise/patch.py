"""Edits of a text and their unified diff. Nothing here touches a file.

The diff is built from the edits themselves, not by comparing two texts: it is minimal by
construction, and its cost grows with the number of edits, not with the size of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

CONTEXT = 3
"""Unchanged lines around a change, as `diff -u` and git give them."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace ``text[start:end]`` by ``new``; an insertion where start equals end."""

    start: int
    end: int
    new: str


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines ``first`` to ``last`` (not included, from 0) of the old text become ``new``."""

    first: int
    last: int
    new: tuple[str, ...]


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits. Insertions at one place come in the order given.

    Raises:
        ValueError: two edits overlap.
    """
    parts: list[str] = []
    position = 0
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        if edit.start < position:
            raise ValueError(f"edits overlap at character {edit.start}")
        parts += [text[position : edit.start], edit.new]
        position = edit.end
    return "".join([*parts, text[position:]])


def unified_diff(file: str, text: str, edits: Sequence[Edit]) -> str:
    """The unified diff of ``edits`` against ``text``, for ``patch -p1`` and ``git apply``.

    Args:
        file: path of the file, relative to the folder in which the patch is applied.
        text: the whole text, with its own line ends.
        edits: what changes; they must not overlap.

    Returns:
        The diff, or "" if the edits change nothing.
    """
    lines = _lines(text)
    blocks = _blocks(text, lines, edits)
    if not blocks:
        return ""
    out = [f"--- {_header('a', file)}\n", f"+++ {_header('b', file)}\n"]
    shift = 0
    for hunk in _hunks(blocks):
        out += _hunk(hunk, lines, shift)
        shift += sum(len(block.new) - (block.last - block.first) for block in hunk)
    return "".join(out)


def _lines(text: str) -> list[str]:
    # only "\n" ends a line for `patch`; a "\r" before it is part of the line
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def _blocks(text: str, lines: Sequence[str], edits: Sequence[Edit]) -> list[_Block]:
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    groups: list[tuple[int, int, list[Edit]]] = []
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        # the end of a text without a last line end is still its last line
        final = len(lines) - (bool(lines) and not lines[-1].endswith("\n"))
        first = min(_line_of(starts, edit.start), final)
        last = min(max(_line_of(starts, edit.end), first), final)
        if groups and first <= groups[-1][1]:
            before = groups.pop()
            groups.append((before[0], max(last, before[1]), [*before[2], edit]))
        else:
            groups.append((first, last, [edit]))
    blocks = []
    for first, last, inside in groups:
        end = min(last + 1, len(lines))
        base, old = starts[first], text[starts[first] : starts[end]]
        moved = [Edit(e.start - base, e.end - base, e.new) for e in inside]
        blocks.append(_trimmed(first, lines[first:end], _lines(apply_edits(old, moved))))
    return _joined([block for block in blocks if _differs(block, lines)])


def _joined(blocks: Sequence[_Block]) -> list[_Block]:
    """Blocks that touch as one, so that all old lines stand before all new ones."""
    out: list[_Block] = []
    for block in blocks:
        if out and out[-1].last == block.first:
            before = out.pop()
            block = _Block(before.first, block.last, before.new + block.new)
        out.append(block)
    return out


def _line_of(starts: Sequence[int], offset: int) -> int:
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if starts[middle] <= offset else (low, middle - 1)
    return low


def _trimmed(first: int, old: Sequence[str], new: Sequence[str]) -> _Block:
    """The block without the equal lines at its two ends."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return _Block(first + start, first + len(old) - end, tuple(new[start : len(new) - end]))


def _differs(block: _Block, lines: Sequence[str]) -> bool:
    return tuple(lines[block.first : block.last]) != block.new


def _hunks(blocks: Sequence[_Block]) -> list[list[_Block]]:
    hunks: list[list[_Block]] = []
    for block in blocks:
        if hunks and block.first - hunks[-1][-1].last <= 2 * CONTEXT:
            hunks[-1].append(block)
        else:
            hunks.append([block])
    return hunks


def _hunk(hunk: Sequence[_Block], lines: Sequence[str], shift: int) -> list[str]:
    start = max(hunk[0].first - CONTEXT, 0)
    stop = min(hunk[-1].last + CONTEXT, len(lines))
    body: list[str] = []
    position = start
    for block in hunk:
        body += [" " + line for line in lines[position : block.first]]
        body += ["-" + line for line in lines[block.first : block.last]]
        body += ["+" + line for line in block.new]
        position = block.last
    body += [" " + line for line in lines[position:stop]]
    added = sum(len(block.new) - (block.last - block.first) for block in hunk)
    old = _range(start, stop - start)
    new = _range(start + shift, stop - start + added)
    head = f"@@ -{old} +{new} @@\n"
    # the mark belongs to the line before it, which has no line end in the file
    return [
        head,
        *(x if x.endswith("\n") else f"{x}\n\\ No newline at end of file\n" for x in body),
    ]


def _range(start: int, count: int) -> str:
    first = start + 1 if count else start
    return str(first) if count == 1 else f"{first},{count}"


def _header(prefix: str, file: str) -> str:
    """The name as GNU patch and git read it back: quoted like C where it must be."""
    name = f"{prefix}/{PurePath(file).as_posix().lstrip('/')}"
    if any(ord(c) < 32 or ord(c) == 127 or c in '"\\' for c in name):
        escaped = "".join(_escaped(c) for c in name)
        return f'"{escaped}"'
    # a tab ends the name: without it GNU patch takes a space for the start of the date
    return f"{name}\t" if " " in name else name


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if ord(character) < 32 or ord(character) == 127:
        return f"\\{ord(character):03o}"
    return character
