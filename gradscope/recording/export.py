"""A recording in files of other programs: Parquet, CSV, TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from gradscope.errors import UsageError
from gradscope.recording.event_file import EventFile
from gradscope.recording.facts import TABLES, Table
from gradscope.recording.reader import Recording
from gradscope.recording.scalars import scalars

_POINTERS = ("offset", "length")
"""Columns that point into a table's byte string, which is not exported."""
_BY_DICT = ("run", "sources")
"""Tables that a recording holds as dicts and not as frames."""


def export(recording: Recording, to: str, out: str | os.PathLike[str]) -> list[Path]:
    """Write ``recording`` into the folder ``out``.

    ``parquet`` and ``csv`` give a file for each table that holds something, with the columns of
    ``recording.facts``, the names beside the ids, and ``shard``: the rank, or forked process, of
    a row. Lists and mappings are JSON texts. ``tensorboard`` gives an event file, for each shard
    in a folder of its own where there are several. Files of an earlier export are replaced.

    Args:
        recording: what was recorded.
        to: ``parquet``, ``csv`` or ``tensorboard``.
        out: the folder; it and those above it are made.

    Returns:
        The files.

    Raises:
        UsageError: no such format, pyarrow is not installed, or a file cannot be written.
    """
    if to not in WRITERS:
        raise UsageError(f"there is no export to {to!r}", hint=f"take one of {', '.join(WRITERS)}")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return WRITERS[to](recording, folder)
    except OSError as error:
        where = str(error.filename or folder)
        raise UsageError(f"{where!r} cannot be written: {error.strerror or error}") from error


def _parquet(recording: Recording, folder: Path) -> list[Path]:
    if find_spec("pyarrow") is None:
        raise UsageError(
            "the export to Parquet needs pyarrow, which is not installed",
            hint='python -m pip install "gradscope-torch[parquet]"',
        )
    return [
        _replaced(folder / f"{name}.parquet", partial(frame.to_parquet, index=False))
        for name, frame in _frames(recording)
    ]


def _csv(recording: Recording, folder: Path) -> list[Path]:
    def write(frame: pd.DataFrame, at: Path) -> None:
        # a name from the user's code may hold half of a surrogate pair
        frame.to_csv(at, index=False, errors="backslashreplace")

    return [
        _replaced(folder / f"{name}.csv", partial(write, _texts(frame)))
        for name, frame in _frames(recording)
    ]


def _tensorboard(recording: Recording, folder: Path) -> list[Path]:
    shards = _shards(recording)
    files = []
    for name, shard in shards.items():
        home = folder if len(shards) == 1 else folder / name
        home.mkdir(exist_ok=True)
        started = _started(shard)
        file = home / f"events.out.tfevents.{int(started)}.{name}.gradscope"

        def write(at: Path, shard: Recording = shard, started: float = started) -> None:
            with EventFile(at, started) as events:
                for found in scalars(shard):
                    events.scalars(found.step, started + found.time, found.values)

        files.append(_replaced(file, write))
    return files


WRITERS: Mapping[str, Callable[[Recording, Path], list[Path]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "tensorboard": _tensorboard,
}


def _frames(recording: Recording) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and frame of each table that holds something, over all shards."""
    for table in TABLES:
        parts = []
        for name, shard in _shards(recording).items():
            frame = _frame(shard, table)
            if len(frame):
                parts.append(frame.assign(shard=name))
        if parts:
            yield table.name, pd.concat(parts, ignore_index=True)


def _shards(recording: Recording) -> dict[str, Recording]:
    return {f"rank{recording.run.get('rank') or 0}": recording, **recording.shards}


def _frame(shard: Recording, table: Table) -> pd.DataFrame:
    if table.name in _BY_DICT:
        facts: Mapping[str, Any] = shard.run if table.name == "run" else shard.sources
        key, value = ("key", "value") if table.name == "run" else ("file", "text")
        frame = pd.DataFrame({key: list(facts), value: list(facts.values())}, dtype=object)
        return frame if table.name == "sources" else frame.assign(value=frame["value"].map(_json))
    frame = getattr(shard, table.name).drop(columns=list(_POINTERS), errors="ignore")
    frame = frame.reset_index(drop=True)
    for column in table.columns:
        if column.width > 1:
            frame[column.name] = list(shard.vectors(table.name, column.name))
        elif column.dtype == "json":
            frame[column.name] = frame[column.name].map(_json)
    for name in ("parameter", "module"):
        if f"{name}_id" in frame:
            # categories differ from shard to shard; texts are what every reader knows
            frame[name] = frame[name].astype(object)
    return frame


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Arrays as JSON texts, which is all that CSV can hold."""
    wide = {name: frame[name].map(_json) for name in frame if _is_wide(frame[name])}
    return frame.assign(**wide)


def _is_wide(column: pd.Series) -> bool:
    return column.dtype == object and len(column) > 0 and hasattr(column.iloc[0], "tolist")


def _json(value: Any) -> str | None:
    if value is None:
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    # JSON has no NaN: what is not finite becomes its name
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _started(recording: Recording) -> float:
    try:
        return datetime.fromisoformat(str(recording.run.get("started"))).timestamp()
    except ValueError:
        return 0.0


def _replaced(path: Path, write: Callable[[Path], Any]) -> Path:
    """``path``, written whole or not at all."""
    unfinished = path.with_name(f".{os.getpid()}.unfinished.{path.name}")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return path
