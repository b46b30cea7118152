"""A trace as JSON, and back: a stored trace is read again for a report."""

from __future__ import annotations

import json
import math
import types
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import gradscope
from gradscope.anatomy.facts import Anatomy
from gradscope.report.numbers import exact

SCHEMA_VERSION = 1


def document(anatomy: Anatomy) -> dict[str, Any]:
    """The trace as a JSON value; a number that is not finite is written as text or null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "gradscope", "version": gradscope.__version__},
        "command": "trace",
        "target": anatomy.target,
        "exit_code": 0,
        "identities_hold": all(identity.holds for identity in anatomy.identities),
        "trace": _plain(asdict(anatomy)),
    }


def render(anatomy: Anatomy) -> str:
    """The document as text."""
    return json.dumps(document(anatomy), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(value: Any) -> Anatomy:
    """The trace in a document.

    Raises:
        ValueError: it is no document of a trace, or of another version.
    """
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise ValueError("this is no trace that this version of gradscope can read")
    try:
        made = _made(Anatomy, value["trace"])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the trace is damaged: {error}") from error
    assert isinstance(made, Anatomy)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else exact(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _made(kind: Any, value: Any) -> Any:
    """A value of a type from its JSON form; only the types that ``facts`` uses."""
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{f.name: _made(hints[f.name], value[f.name]) for f in fields(kind)})
    if origin is tuple:
        inner = get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_made(inner[0], item) for item in value)
        return tuple(_made(part, item) for part, item in zip(inner, value, strict=True))
    if origin in (Union, types.UnionType):
        return None if value is None else _made(get_args(kind)[0], value)
    if kind is float:
        return math.nan if value is None else float(value)
    if origin is Literal or kind in (str, int, bool):
        return value
    raise TypeError(f"no way to read {kind}")
