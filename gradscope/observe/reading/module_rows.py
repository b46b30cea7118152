"""What was read of modules in one step, as rows of the recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.reading.units import UnitReading, merge, pack
from gradscope.recording.facts import ACTIVATIONS, UNITS

Rows = npt.NDArray[np.void]
Key = tuple[int, int, int]
"""Module id, role, position."""
Reading = Tensor | tuple[float, float, float, float]
"""Four numbers: a tensor on a device, from which they are fetched at the end of the step."""
UnitsOfPass = tuple[int, UnitReading]
"""Number of the forward (see ``passes``) and what was read of an activation in it."""


@dataclass
class Row:
    """Indices of the readings of one key in one step, and what is known without reading."""

    readings: list[int] = field(default_factory=list)
    counts: list[tuple[int, ...]] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    spreads: list[tuple[int, int]] = field(default_factory=list)
    source: int = -1
    batch: int = -1

    def add(self, reading: int, count: tuple[int, ...], number: int) -> None:
        """One reading, its count and sample size, the number of the forward that it belongs to."""
        self.readings.append(reading)
        self.counts.append(count)
        self.passes.append(number)

    def drop(self, numbers: Collection[int]) -> None:
        """Forget the readings of these forwards."""
        left = [i for i, number in enumerate(self.passes) if number not in numbers]
        if len(left) < len(self.passes):
            self.readings = [self.readings[i] for i in left]
            self.counts = [self.counts[i] for i in left]
            self.passes = [self.passes[i] for i in left]
        self.spreads = [spread for spread in self.spreads if spread[0] not in numbers]

    def indices(self) -> list[int]:
        """Indices of all its readings."""
        return [*self.readings, *(index for _, index in self.spreads)]


def transfer(readings: Sequence[Reading | None]) -> npt.NDArray[np.float64]:
    """All readings ``[R, 4]`` on the host, with one copy for each device and format of some."""
    numbers = np.zeros((len(readings), 4))
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = defaultdict(list)
    for i, reading in enumerate(readings):
        if isinstance(reading, tuple):
            numbers[i] = reading
        elif reading is not None:
            alike[reading.device, reading.dtype].append((i, reading))
    for found in alike.values():
        block = torch.stack([reading for _, reading in found]).to(torch.float64)
        numbers[[i for i, _ in found]] = block.cpu().numpy()
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
    if not kept:
        return rows
    owner = np.repeat(np.arange(len(kept)), [len(row.readings) for _, row in kept])
    read = numbers[np.concatenate([row.readings for _, row in kept])]
    sizes = np.concatenate([row.counts for _, row in kept])
    with np.errstate(over="ignore", invalid="ignore"):
        sum_sq = np.bincount(owner, weights=read[:, 1] ** 2)
        largest = np.full(len(kept), -np.inf)
        np.maximum.at(largest, owner, read[:, 2])  # keeps a NaN
    # a norm that overflowed although every element is finite is absent, not infinite
    sum_sq[~np.isfinite(sum_sq) & np.isfinite(largest)] = np.nan
    rows["step"] = step
    rows["module"], rows["role"], rows["position"] = np.array([key for key, _ in kept]).T
    rows["calls"] = np.bincount(owner)
    rows["count"] = np.bincount(owner, weights=sizes[:, 0])
    rows["sum"] = np.bincount(owner, weights=read[:, 0])
    rows["sum_sq"], rows["max_abs"] = sum_sq, largest
    rows["nonfinite"] = ~np.isfinite(largest)
    rows["looked_at"] = np.bincount(owner, weights=sizes[:, 1])
    rows["zeros"] = np.bincount(owner, weights=read[:, 3])
    rows["consumers"] = [consumers.get(key, -1) for key, _ in kept]
    rows["source"] = [row.source for _, row in kept]
    rows["batch"] = [row.batch for _, row in kept]
    rows["spread"] = _spreads([row for _, row in kept], numbers)
    return rows


def _spreads(kept: Sequence[Row], numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    counts = [len(row.spreads) for row in kept]
    owner = np.repeat(np.arange(len(kept)), counts)
    read = numbers[[index for row in kept for _, index in row.spreads]].reshape(-1, 4)
    variance = np.bincount(owner, weights=read[:, 0], minlength=len(kept))
    square = np.bincount(owner, weights=read[:, 1], minlength=len(kept))
    known = np.isfinite(square) & (square > 0)
    spread = np.full(len(kept), np.nan)
    spread[known] = np.sqrt(variance[known] / square[known])
    return spread


def units(step: int, found: Mapping[tuple[int, int], list[UnitsOfPass]]) -> tuple[Rows, bytes]:
    """Rows of table ``units`` and the blob into which they point."""
    rows = np.zeros(len(found), UNITS.dtype)
    blob = bytearray()
    for out, ((module, role), readings) in zip(rows, found.items(), strict=True):
        reading = merge([reading for _, reading in readings])
        packed, active, slope = pack(reading)
        out["step"], out["module"], out["role"] = step, module, role
        out["activation"], out["units"] = reading.kind, reading.units
        out["looked_at"], out["positions"] = len(reading.active), reading.positions
        out["active"], out["slope"] = active, slope
        out["offset"], out["length"] = len(blob), len(packed)
        blob += packed
    return rows, bytes(blob)
