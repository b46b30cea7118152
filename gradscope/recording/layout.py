"""The schema as it stands in a segment's header, and rows of another version's schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradscope.recording.facts import BY_NAME, TABLES
from gradscope.recording.schema import Rows, Table

FORMAT = 1
"""Version of the frame format; another one cannot be read."""
_DTYPES = frozenset(("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"))
_MAX_WIDTH = 65_536
_MAX_COLUMNS = 1_000

TABLE_IDS: dict[str, int] = {table.name: number for number, table in enumerate(TABLES, start=1)}
"""Ids as this version writes them; a reader takes them from the header."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A table as a segment holds it; ``dtype`` is None for a record table."""

    table: Table
    dtype: np.dtype[np.void] | None


def describe() -> dict[str, Any]:
    """The tables of this version for a header: id, and columns of row tables."""
    described: dict[str, Any] = {}
    for table in TABLES:
        described[table.name] = {"id": TABLE_IDS[table.name]}
        if table.rows:
            columns = [[c.name, c.dtype, c.width] for c in table.columns]
            described[table.name]["columns"] = columns
    return described


def restore(described: Any) -> dict[int, Stored]:
    """Known tables by the id that a header gives them; tables of a later version are left out.

    Raises:
        ValueError: this is no description of tables.
    """
    if not isinstance(described, dict):
        raise ValueError("the header describes no tables")  # noqa: TRY004
    stored: dict[int, Stored] = {}
    for name, facts in described.items():
        table = BY_NAME.get(name)
        if table is None:
            continue
        if not isinstance(facts, dict) or not isinstance(facts.get("id"), int):
            raise ValueError(f"table {name!r} has no id")  # noqa: TRY004
        dtype = _dtype(facts.get("columns")) if table.rows else None
        stored[facts["id"]] = Stored(table, dtype)
    return stored


def conform(rows: Rows, table: Table) -> Rows:
    """Rows of any version as rows of this version's ``table.dtype``.

    A column that the rows lack, or hold in a type that does not fit, is absent: NaN, -1 (all bits
    set where the type has no sign), and 0 throughout in a wide column.
    """
    if rows.dtype == table.dtype:
        return rows
    result = np.zeros(len(rows), table.dtype)
    for column in table.columns:
        target = result[column.name]
        if _fits(rows.dtype, table.dtype, column.name):
            target[...] = rows[column.name]
        elif column.width == 1:
            target[...] = np.nan if target.dtype.kind == "f" else np.array(-1).astype(target.dtype)
    return result


def _dtype(columns: Any) -> np.dtype[np.void]:
    if not isinstance(columns, list) or not 0 < len(columns) <= _MAX_COLUMNS:
        raise ValueError("a row table without columns")
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for column in columns:
        match column:
            case [str(name), str(kind), int(width)] if kind in _DTYPES and 0 < width <= _MAX_WIDTH:
                fields.append((name, f"<{kind}", (width,) if width > 1 else ()))
            case _:
                raise ValueError(f"no column: {column!r:.80}")
    return np.dtype(fields)


def _fits(have: np.dtype[np.void], want: np.dtype[np.void], name: str) -> bool:
    if name not in (have.names or ()):
        return False
    old, new = have[name], want[name]
    return old.shape == new.shape and bool(np.can_cast(old.base, new.base, "safe"))
