"""JSON of record tables: no NaN literal on disk, and no value of a wrong type in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradscope.recording.schema import Table

_MARK = "float:"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_MAX_INT = 2**63
_REQUIRED = {
    "parameters": ("parameter", "root", "path", "module"),
    "modules": ("module", "root", "path", "type"),
    "sources": ("file", "text"),
    "run": ("key",),
}
"""Columns without which the reader cannot place a record; elsewhere it is ``step``, if it has one.
"""


def encode(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a JSON array.

    Non-finite floats are the strings ``float:nan``, ``float:inf`` and ``float:-inf``; a string
    that itself begins with ``float:`` gets the mark once more. numpy scalars and arrays become
    numbers and lists; what JSON does not know becomes its text.
    """
    try:
        text = _PLAIN.encode(list(items))
    except (ValueError, TypeError):
        text = ""
    if not text or f'"{_MARK}' in text:
        marked = _marked(list(items))
        text = json.dumps(marked, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    # a lone surrogate (an undecodable file name) has no UTF-8: it is kept as its escape
    return text.encode("utf-8", "backslashreplace")


def decode(body: bytes) -> Any:
    """What ``encode`` was given, as plain lists, dicts, strings and numbers.

    Raises:
        ValueError: this is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(body, parse_constant=_refuse)
        return _unmarked(value) if f'"{_MARK}'.encode() in body else value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def valid(item: Any, table: Table) -> bool:
    """Whether ``item`` is a record of ``table``: every known column has its type or is null."""
    if not isinstance(item, dict):
        return False
    for column in table.columns:
        value = item.get(column.name)
        if value is not None and not _is(value, column.dtype):
            return False
    return all(item.get(name) is not None for name in _required(table))


def _required(table: Table) -> tuple[str, ...]:
    if table.name in _REQUIRED:
        return _REQUIRED[table.name]
    return ("step",) if table.columns[0].name == "step" else ()


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "int":
            return type(value) is int and -_MAX_INT <= value < _MAX_INT
        case "float":
            return type(value) is float or (type(value) is int and abs(value) < _MAX_INT)
        case "bool":
            return type(value) is bool
        case "text":
            return isinstance(value, str)
        case _:
            return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


_PLAIN = json.JSONEncoder(
    allow_nan=False, default=_plain, ensure_ascii=False, separators=(",", ":")
)
"""Made once: every step of a training encodes a record."""


def _marked(value: Any) -> Any:
    match value:
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else f"{_MARK}{float(value)}"
        case str():
            return _MARK + value if value.startswith(_MARK) else value
        case Mapping():
            return {str(key): _marked(item) for key, item in value.items()}
        case list() | tuple():
            return [_marked(item) for item in value]
        case _:
            return _marked(_plain(value))


def _unmarked(value: Any) -> Any:
    match value:
        case str():
            if not value.startswith(_MARK):
                return value
            rest = value.removeprefix(_MARK)
            return _NON_FINITE.get(rest, rest)
        case dict():
            return {key: _unmarked(item) for key, item in value.items()}
        case list():
            return [_unmarked(item) for item in value]
        case _:
            return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
