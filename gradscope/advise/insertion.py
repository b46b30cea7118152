"""Edits that add a statement, an item of a list, or a wrapper, in the style of the file around."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradscope.advise.patch import Edit
from gradscope.advise.source_file import Located, SourceFile


def before_statement(
    file: SourceFile, statement: ast.stmt, lines: Sequence[str]
) -> list[Edit] | None:
    """Add simple statements before ``statement``.

    Args:
        file: the file.
        statement: the statement.
        lines: one statement each, without indentation; a compound statement's further lines
            begin with tabs, one a level.

    Returns:
        The edits, or None where a compound statement would have to stand in a line of several.
    """
    start = file.start(statement)
    line_start = file.line_start(start)
    if _blank(file.text[line_start:start]):
        indent = file.indent(statement)
        code = "".join(f"{_indented(file, line, indent)}{file.newline}" for line in lines)
        return [Edit(line_start, line_start, code)]
    if _compound(lines):
        return None
    return [Edit(start, start, "".join(f"{line}; " for line in lines))]


def after_statement(
    file: SourceFile, statement: ast.stmt, lines: Sequence[str]
) -> list[Edit] | None:
    """Add statements after ``statement``; arguments and result as in ``before_statement``."""
    start, end = file.start(statement), file.end(statement)
    stop = file.line_stop(end)
    rest = file.text[end:stop].strip()
    if _blank(file.text[file.line_start(start) : start]) and (not rest or rest.startswith("#")):
        indent = file.indent(statement)
        code = "".join(f"{file.newline}{_indented(file, line, indent)}" for line in lines)
        return [Edit(stop, stop, code)]
    if _compound(lines):
        return None
    return [Edit(end, end, "".join(f"; {line}" for line in lines))]


def at_module_level_before(file: SourceFile, node: ast.AST, lines: Sequence[str]) -> list[Edit]:
    """Add a definition at the top level, before the statement that holds ``node``."""
    top = next(s for s in file.tree.body if s is node or s in set(file.ancestors(node)))
    place = file.line_start(file.start(top))
    while place > 0:
        above = file.line_start(place - 1 - (file.text[place - 2 : place] == "\r\n"))
        # a comment directly above belongs to the statement
        if not file.text[above:place].startswith("#") or above == 0:
            break
        place = above
    code = "".join(f"{_indented(file, line, '')}{file.newline}" for line in lines)
    return [Edit(place, place, f"{code}{file.newline}{file.newline}")]


def after_item(file: SourceFile, items: Sequence[Located], index: int, code: str) -> list[Edit]:
    """Add an item behind ``items[index]`` of a call's arguments, a list or a tuple.

    One item a line stays one item a line; a comment behind the item stays behind it.
    """
    item = items[index]
    start, end = file.start(item), file.end(item)
    following = file.start(items[index + 1]) if index + 1 < len(items) else None
    line_start, stop = file.line_start(start), file.line_stop(end)
    alone = _blank(file.text[line_start:start]) and (following is None or following > stop)
    if not alone:
        return [Edit(end, end, f", {code}")]
    indent = file.text[line_start:start]
    rest = file.text[end:stop].strip()
    if rest.startswith(","):
        after_comma = rest[1:].strip()
        if not after_comma or after_comma.startswith("#"):
            return [Edit(stop, stop, f"{file.newline}{indent}{code},")]
    if not rest or rest.startswith("#"):
        return [Edit(end, end, ","), Edit(stop, stop, f"{file.newline}{indent}{code}")]
    return [Edit(end, end, f",{file.newline}{indent}{code}")]


def wrapped(file: SourceFile, first: Located, last: Located, head: str, tail: str) -> list[Edit]:
    """Put ``head`` before ``first`` and ``tail`` behind ``last``."""
    start, end = file.start(first), file.end(last)
    return [Edit(start, start, head), Edit(end, end, tail)]


def replaced(file: SourceFile, node: Located, code: str) -> Edit:
    """Replace the text of ``node``."""
    return Edit(file.start(node), file.end(node), code)


def removed(file: SourceFile, statement: ast.stmt) -> list[Edit] | None:
    """Take out a statement with its lines; None where it shares a line with another."""
    start, end = file.start(statement), file.end(statement)
    stop = file.line_stop(end)
    rest = file.text[end:stop].strip()
    if not _blank(file.text[file.line_start(start) : start]) or (rest and rest[0] != "#"):
        return None
    following = stop + (2 if file.text[stop : stop + 2] == "\r\n" else 1)
    return [Edit(file.line_start(start), min(following, len(file.text)), "")]


def _indented(file: SourceFile, line: str, indent: str) -> str:
    inner = line.lstrip("\t")
    return f"{indent}{file.indent_unit * (len(line) - len(inner))}{inner}" if inner else ""


def _compound(lines: Sequence[str]) -> bool:
    return any(line.startswith("\t") or line.endswith(":") for line in lines)


def _blank(text: str) -> bool:
    return not text.strip("\ufeff \t\f")
