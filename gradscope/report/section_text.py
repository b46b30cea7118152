"""Sections of sentences and tables as text for a terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from gradscope.report.clean import one_line
from gradscope.report.trace_view import Section, Table

_CELL = 38
"""Columns of a cell; a longer name is cut in the middle."""


def terminal(out: Text, sections: Sequence[Section], width: int) -> None:
    """Append sections to a text for a terminal."""
    for section in sections:
        out.append(f"\n{section.title}\n", "bold blue")
        for sentence in section.sentences:
            out.append(f"{wrapped(plain(sentence), width - 2, 2, first=2)}\n")
        for table in section.tables:
            if table.rows:
                out.append("\n")
                out.append(aligned(table, width))


def markdown(sections: Sequence[Section]) -> list[str]:
    """Sections as lines of GitHub's Markdown."""
    out: list[str] = []
    for section in sections:
        out += ["", f"### {section.title}", ""]
        out += [line for sentence in section.sentences for line in (cell(sentence), "")]
        for table in section.tables:
            out += ["| " + " | ".join(map(cell, table.columns)) + " |"]
            out += ["|" + " --- |" * len(table.columns)]
            out += ["| " + " | ".join(map(cell, row)) + " |" for row in table.rows] + [""]
    return out


def plain(text: str) -> str:
    """``text`` on one line, without the marks of names."""
    return one_line(text).replace("`", "")


def cell(text: str) -> str:
    """``text`` as it may stand in Markdown and in a cell of its tables."""
    shown = one_line(text).replace("|", "\\|").replace("<", "&lt;")
    return shown.replace("*", "\\*").replace("_", "\\_") if "`" not in shown else shown


def wrapped(text: str, width: int, indent: int, first: int = 0) -> str:
    """``text`` folded at ``width``, its first line and the others indented."""
    made = textwrap.fill(
        one_line(text), max(width, 30), initial_indent=" " * first,
        subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return made


def aligned(table: Table, width: int) -> str:
    """A table in columns: names to the left, numbers to the right, sentences on lines below."""
    heads = [one_line(head) for head in table.columns]
    rows = [[_short(plain(text)) if at != _prose(table) else plain(text)
             for at, text in enumerate(row)] for row in table.rows]  # fmt: skip
    prose = _prose(table)
    columns = [at for at in range(len(heads)) if at != prose]
    sizes = {at: max(cell_len(row[at]) for row in [heads, *rows]) for at in columns}
    out = []
    for number_of, row in enumerate([heads, *rows]):
        cells = [
            row[at] + " " * (sizes[at] - cell_len(row[at]))
            if at == 0 or not _numeric(rows, at)
            else " " * (sizes[at] - cell_len(row[at])) + row[at]
            for at in columns
        ]
        out.append(("  " + "  ".join(cells)).rstrip())
        if prose is not None and number_of > 0:
            out.append(wrapped(row[prose], width - 6, 6, first=6))
    return "\n".join(out) + "\n"


def _prose(table: Table) -> int | None:
    return table.columns.index("why") if "why" in table.columns else None


def _numeric(rows: list[list[str]], at: int) -> bool:
    cells = [row[at] for row in rows if row[at] not in ("", "–")]
    return bool(cells) and all(cell.lstrip("×-−<> ")[:1].isdigit() for cell in cells) and not any(
        "of it" in cell or "step" in cell for cell in cells
    )  # fmt: skip


def _short(text: str) -> str:
    if len(text) <= _CELL:
        return text
    head = _CELL // 2 - 1
    return f"{text[:head]}…{text[-(_CELL - head - 1) :]}"
