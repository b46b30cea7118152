"""What a table and a column of a recording are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.void]
"""Rows of a row table: a structured array of ``Table.dtype``."""

Kind = Literal["int", "float", "bool", "text", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: the column's name, the same on disk and in pandas.
        dtype: numpy type of a row table's column, or one of ``int float bool text json``.
        unit: unit of the value, "" for a count or a ratio.
        doc: what the number means.
        width: number of values in each row; above 1 the column is not part of the pandas frame
            and is read by ``Recording.vectors(table, column)`` as an array ``[rows, width]``.
    """

    name: str
    dtype: str
    unit: str
    doc: str
    width: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its columns, and whether its rows are packed numbers or JSON records."""

    name: str
    rows: bool
    columns: tuple[Column, ...]
    doc: str
    blob: bool = False
    """Row tables only: the rows of a step come with a byte string into which they point."""

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The packed little-endian numpy type of one row (row tables only)."""
        return _packed(self.columns)

    def column(self, name: str) -> Column:
        """The column called ``name``; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name!r} has no column {name!r}")


@cache
def _packed(columns: tuple[Column, ...]) -> np.dtype[np.void]:
    fields = [
        (c.name, f"<{c.dtype}", (c.width,)) if c.width > 1 else (c.name, f"<{c.dtype}")
        for c in columns
    ]
    return np.dtype(fields)
