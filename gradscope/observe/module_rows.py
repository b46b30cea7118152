"""What was read of modules in one step, as rows of the recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.units import UnitReading, merge, pack
from gradscope.recording.facts import ACTIVATIONS, UNITS

Rows = npt.NDArray[np.void]
Key = tuple[int, int, int]
"""Module id, role, position."""


@dataclass
class Row:
    """Indices of the readings of one key in one step, and what is known without reading."""

    readings: list[int] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    spreads: list[int] = field(default_factory=list)
    source: int = -1
    batch: int = -1


def transfer(readings: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """All readings ``[R, 4]`` on the host, with one copy for each device that holds some."""
    numbers = np.zeros((len(readings), 4))
    by_device: dict[torch.device, list[int]] = defaultdict(list)
    for i, reading in enumerate(readings):
        by_device[reading.device].append(i)
    for indices in by_device.values():
        block = torch.stack([readings[i].to(torch.float64) for i in indices])
        numbers[indices] = block.cpu().numpy()
    return numbers


def activations(
    step: int,
    found: Mapping[Key, Row],
    numbers: npt.NDArray[np.float64],
    consumers: Mapping[Key, int],
) -> Rows:
    """Rows of table ``activations``.

    Args:
        step: the step.
        found: readings by key.
        numbers: ``[R, 4]``: sum, norm, largest magnitude, zeros in the sample; for a spread:
            variance over axis 0 and mean square.
        consumers: edges of the graph that read the tensor under each key.
    """
    kept = [(key, row) for key, row in found.items() if row.readings]
    rows = np.zeros(len(kept), ACTIVATIONS.dtype)
    for out, (key, row) in zip(rows, kept, strict=True):
        read = numbers[row.readings]
        with np.errstate(over="ignore", invalid="ignore"):
            sum_sq = float((read[:, 1] ** 2).sum())
        largest = read[:, 2].max() if not np.isnan(read[:, 2]).any() else np.nan
        # a norm that overflowed although every element is finite is absent, not infinite
        absent = not np.isfinite(sum_sq) and np.isfinite(largest)
        out["step"] = step
        out["module"], out["role"], out["position"] = key
        out["calls"] = len(row.readings)
        out["count"] = sum(count for count, _ in row.counts)
        out["sum"] = read[:, 0].sum()
        out["sum_sq"] = np.nan if absent else sum_sq
        out["max_abs"] = largest
        out["nonfinite"] = not np.isfinite(largest)
        out["looked_at"] = sum(size for _, size in row.counts)
        out["zeros"] = read[:, 3].sum()
        out["consumers"] = consumers.get(key, -1)
        out["source"] = row.source
        out["batch"] = row.batch
        out["spread"] = _spread(numbers[row.spreads])
    return rows


def _spread(read: npt.NDArray[np.float64]) -> float:
    variance, square = read[:, 0].sum(), read[:, 1].sum()
    if not len(read) or not np.isfinite(square) or square == 0:
        return np.nan
    return float(np.sqrt(variance / square))


def units(step: int, found: Mapping[tuple[int, int], list[UnitReading]]) -> tuple[Rows, bytes]:
    """Rows of table ``units`` and the blob into which they point."""
    rows = np.zeros(len(found), UNITS.dtype)
    blob = bytearray()
    for out, ((module, role), readings) in zip(rows, found.items(), strict=True):
        reading = merge(readings)
        packed, active, slope = pack(reading)
        out["step"], out["module"], out["role"] = step, module, role
        out["activation"], out["units"] = reading.kind, reading.units
        out["looked_at"], out["positions"] = len(reading.active), reading.positions
        out["active"], out["slope"] = active, slope
        out["offset"], out["length"] = len(blob), len(packed)
        blob += packed
    return rows, bytes(blob)
