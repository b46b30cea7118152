"""Rows and records with every kind of value, and small folders made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gradscope.recording.facts import BY_NAME, TABLES
from gradscope.recording.writer import Writer

ROW_TABLES = tuple(table.name for table in TABLES if table.rows)
RECORD_TABLES = tuple(table.name for table in TABLES if not table.rows)
_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (0, 7, -1, 2**53 + 1),
    "float": (0.1, float("nan"), float("inf"), float("-inf"), None, -0.0, 5e-324),
    "bool": (True, False, None),
    "text": ("layers.0", "", "float:nan", "float:", 'a "quoted" – line\n', None),
    "json": (
        [0.001, float("inf")],
        {"deep": [{"value": float("nan")}, "float:inf"], "n": None},
        "plain",
        [],
        None,
    ),
}
_NEEDED = ("step", "module", "parameter", "root", "path", "type", "file", "text", "key")


def rows(table: str, step: int, count: int = 5, seed: int = 0) -> np.ndarray:
    """``count`` rows with random bits in every column: NaNs, infinities and extremes included."""
    dtype = BY_NAME[table].dtype
    random = np.random.default_rng((seed, step, len(table)))
    made = np.frombuffer(random.bytes(dtype.itemsize * count), dtype).copy()
    made["step"] = step
    for column in ("parameter", "module"):
        if column in dtype.names:
            made[column] = np.arange(count)
    for name in dtype.names:
        if made[name].dtype.kind == "f":
            made[name][0] = (np.nan, np.inf, -np.inf)[step % 3]
    return made


def units(step: int, widths: tuple[int, ...] = (3, 16, 9)) -> tuple[np.ndarray, bytes]:
    """Rows of ``units`` with their blob; the unit ``i`` of step ``s`` is active if (i+s) % 3."""
    made = np.zeros(len(widths), BY_NAME["units"].dtype)
    blob = b""
    for row, width in zip(made, widths, strict=True):
        active = (np.arange(width) + step) % 3 != 0
        part = np.packbits(active, bitorder="little").tobytes()
        part += bytes((7 * i + step) % 256 for i in range(width))
        row["step"], row["units"], row["looked_at"] = step, width, width
        row["offset"], row["length"] = len(blob), len(part)
        blob += part
    return made, blob


def records(table: str, step: int = 0, count: int = 6) -> list[dict[str, Any]]:
    """Records whose columns run through all kinds of values of their type."""
    made = []
    for number in range(count):
        item: dict[str, Any] = {}
        for position, column in enumerate(BY_NAME[table].columns):
            values = _VALUES[column.dtype]
            value = values[(number + position) % len(values)]
            if value is None and column.name in _NEEDED:
                value = values[0]
            item[column.name] = value
        if "step" in item:
            item["step"] = step
        for key in ("module", "parameter"):
            if key in item and table == f"{key}s":
                item[key] = number
        made.append(item)
    return made


def step_record(step: int, loss: float = 0.5) -> dict[str, Any]:
    """A record of table ``steps``."""
    return {"step": step, "time": 0.1 * step, "loss": loss, "backwards": 1, "lr": [0.1]}


def gradient_rows(step: int, parameters: int = 3) -> np.ndarray:
    """Gradients whose numbers say which step and parameter they belong to."""
    made = np.zeros(parameters, BY_NAME["gradients"].dtype)
    made["step"] = step
    made["parameter"] = np.arange(parameters)
    made["count"] = 10
    made["sum"] = step * 1000.0 + made["parameter"]
    made["sum_sq"] = made["sum"] ** 2
    made["exponents"][:, 3] = step % 60_000
    return made


def write_steps(writer: Writer, steps: range, parameters: int = 3) -> None:
    """Commit gradients and a step record for each step."""
    for step in steps:
        writer.rows("gradients", gradient_rows(step, parameters))
        writer.records("steps", [step_record(step, loss=1.0 / (step + 1))])
        writer.commit()


def segment_of(folder: Path) -> Path:
    """The only segment file of a small recording."""
    (found,) = folder.glob("*.frames")
    return found


def same(left: Any, right: Any) -> bool:
    """Equality in which NaN equals NaN, and 1 is neither True nor 1.0."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and left != left:
        return isinstance(right, float) and right != right
    return type(left) is type(right) and left == right and str(left) == str(right)
