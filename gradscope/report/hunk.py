"""The lines of a unified diff that a reader of a terminal needs: few, with their line numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gradscope.report.clean import lines

_HEADER = re.compile(r"^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a hunk.

    Attributes:
        line: its number; of what comes the number in the changed file.
        sign: "-" (goes), "+" (comes) or " " (stays).
        text: the line.
        old: its number in the file as it is; of what comes that of the line it comes before.
    """

    line: int
    sign: str
    text: str
    old: int


def hunk(diff: str, context: int = 1, most: int = 12) -> tuple[str | None, list[Change], int]:
    """The changed lines of ``diff`` with a little context.

    Args:
        diff: a unified diff of one file.
        context: unchanged lines kept before and after each change.
        most: lines kept in all.

    Returns:
        The file's path as the diff names it (None if it does not), the lines kept, and how many
        further lines that change something were left out.
    """
    path: str | None = None
    hunks: list[list[Change]] = []
    old = new = 0
    for text in lines(diff):
        if header := _HEADER.match(text):
            old, new = int(header[1]), int(header[2])
            hunks.append([])
        elif not hunks:
            if text.startswith("+++ "):
                path = _path(text[4:])
        elif text[:1] in ("-", "+", " "):
            sign = text[0]
            hunks[-1].append(Change(old if sign == "-" else new, sign, text[1:], old))
            old, new = old + (sign != "+"), new + (sign != "-")
    kept = [
        change
        for changes in hunks
        for place, change in enumerate(changes)
        if any(near.sign != " " for near in changes[max(0, place - context) : place + context + 1])
    ]
    return path, kept[:most], sum(change.sign != " " for change in kept[most:])


def _path(text: str) -> str:
    name = text.split("\t")[0].strip()
    return name[2:] if name.startswith(("a/", "b/")) else name
