"""Tensors to sufficient statistics: the hot path.

Legend: P tensors of one call, all on one device.

Exact numbers read each tensor where it lies, by the compiled kernel where it was built (kernel.py),
else by torch's operations: no copy, except that small tensors of one shape are stacked and read
together; everything stays 0-dim on the device until one transfer at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe import kernel
from gradscope.observe.reading.samples import flat_sample, sample_stride
from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES, SAMPLE_SIZE

Floats = npt.NDArray[np.float64]

STACK_BELOW = 16_384
"""Tensors of one shape with fewer elements than this are stacked: above it the copy costs more
than the calls it saves (measured on CPU with 4 to 200 tensors)."""
STACK_FROM = 3
"""Least number of tensors of one shape worth stacking."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of P tensors, each array ``[P]`` unless said.

    Attributes:
        count: elements.
        sum: sum of the elements, float64.
        sum_sq: sum of squares, float64 (finite unless the tensor itself is not).
        max_abs: largest magnitude, float64; NaN or Inf where the tensor holds one.
        looked_at: elements in the strided sample.
        zeros: exact zeros among them.
        exponents: ``[P, EXPONENT_BINS]`` histogram of the sample, or None if not asked for.
    """

    count: npt.NDArray[np.int64]
    sum: Floats
    sum_sq: Floats
    max_abs: Floats
    looked_at: npt.NDArray[np.int32]
    zeros: npt.NDArray[np.int32]
    exponents: npt.NDArray[np.uint16] | None

    @property
    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """``[P]``: whether the tensor holds a NaN or Inf; exact, since the maximum keeps both."""
        return ~np.isfinite(self.max_abs)


@torch.no_grad()
def moments(tensors: Sequence[Tensor], *, exponents: bool) -> Moments:
    """Statistics of dense real tensors (see ``samples.plain``) of any shapes and dtypes.

    Args:
        tensors: P tensors; an empty one counts 0 elements.
        exponents: also make the histogram of binary exponents.
    """
    total = len(tensors)
    counts = np.array([tensor.numel() for tensor in tensors], np.int64)
    strides = sample_stride(counts, SAMPLE_SIZE)
    numbers = np.zeros((total, 3))
    zeros = np.zeros(total, np.int32)
    bins = np.zeros((total, EXPONENT_BINS), np.uint16) if exponents else None
    compiled = np.array([kernel.reads(tensor) for tensor in tensors], bool)
    for chosen, read in ((compiled, kernel.moments), (~compiled, _by_torch)):
        indices = np.flatnonzero(chosen)
        if len(indices):
            some = [tensors[i] for i in indices.tolist()]
            found, none, histogram = read(some, strides[indices], exponents=exponents)
            numbers[indices], zeros[indices] = found, none
            if bins is not None and histogram is not None:
                bins[indices] = histogram
    return Moments(
        count=counts,
        sum=numbers[:, 0],
        sum_sq=numbers[:, 1],
        max_abs=numbers[:, 2],
        looked_at=-(-counts // strides).astype(np.int32),
        zeros=zeros,
        exponents=bins,
    )


def _by_torch(
    tensors: Sequence[Tensor], strides: npt.NDArray[np.int64], *, exponents: bool
) -> tuple[Floats, npt.NDArray[np.int32], npt.NDArray[np.uint16] | None]:
    """As ``kernel.moments``, by torch's operations, for dense tensors anywhere and of any strides.

    float32 is summed pairwise in float32: the error of a sum is some 1e-6 of that of magnitudes.
    """
    exact = torch.zeros((len(tensors), 3), dtype=torch.float64, device=tensors[0].device)
    for indices in _groups(tensors):
        _exact(tensors, indices, exact)
    samples = [flat_sample(tensor, SAMPLE_SIZE) for tensor in tensors]
    histogram = _histogram(samples, np.array([len(s) for s in samples], np.int32), full=exponents)
    numbers, bins = exact.cpu().numpy(), histogram.cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        numbers[:, 1] **= 2
    for i in np.flatnonzero(~np.isfinite(numbers[:, 1]) & np.isfinite(numbers[:, 2])).tolist():
        # the norm overflowed in its own precision although every element is finite
        numbers[i, 1] = float(tensors[i].double().square().sum())
    histogram_bins = bins[:, :EXPONENT_BINS].astype(np.uint16) if exponents else None
    return numbers, bins[:, -1].astype(np.int32), histogram_bins


def _groups(tensors: Sequence[Tensor]) -> list[list[int]]:
    by_shape: dict[tuple[torch.Size, torch.dtype], list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        if tensor.numel():
            by_shape[tensor.shape, tensor.dtype].append(i)
    return list(by_shape.values())


def _exact(tensors: Sequence[Tensor], indices: list[int], out: Tensor) -> None:
    """Write sum, norm and largest magnitude of the tensors at ``indices`` into ``out [P, 3]``."""
    first = tensors[indices[0]]
    # half precision sums in float32; float32 sums pairwise in float32, which is exact enough
    dtype = first.dtype if first.dtype == torch.float64 else torch.float32
    if len(indices) >= STACK_FROM and first.numel() <= STACK_BELOW:
        block = torch.stack([tensors[i].reshape(-1) for i in indices])
        low, high = block.aminmax(dim=1)
        values = (
            block.sum(dim=1, dtype=dtype),
            torch.linalg.vector_norm(block, dim=1, dtype=dtype),
            torch.maximum(high, -low),
        )
        rows = torch.tensor(indices, device=out.device)
        out[rows] = torch.stack([v.to(torch.float64) for v in values], dim=1)
        return
    parts: list[Tensor] = []
    for i in indices:
        low, high = tensors[i].aminmax()
        parts += [
            tensors[i].sum(dtype=dtype),
            torch.linalg.vector_norm(tensors[i], dtype=dtype),
            torch.maximum(high, -low).to(dtype),
        ]
    rows = torch.tensor(indices, device=out.device)
    out[rows] = torch.stack(parts).reshape(-1, 3).to(torch.float64)


def _histogram(
    samples: Sequence[Tensor], looked_at: npt.NDArray[np.int32], *, full: bool
) -> Tensor:
    """``[P, EXPONENT_BINS + 2]``: exponents, then non-finite elements, then exact zeros."""
    width = EXPONENT_BINS + 2
    total = len(samples)
    if not total or not looked_at.sum():
        return torch.zeros((total, width), dtype=torch.int64)
    values = torch.cat([sample.to(torch.float32) for sample in samples])
    device = values.device
    rows = torch.repeat_interleave(
        torch.arange(total, device=device), torch.from_numpy(looked_at).to(device).long()
    )
    if not full:
        zeros = torch.zeros((total, width), dtype=torch.int64, device=device)
        zeros[:, -1] = torch.bincount(rows[values == 0], minlength=total)
        return zeros
    # frexp gives a mantissa in [0.5, 1): its exponent is floor(log2) + 1, subnormals included
    exponent = torch.frexp(values).exponent.long() - 1
    first, second, last = EXPONENT_EDGES[0], EXPONENT_EDGES[1], EXPONENT_EDGES[-1]
    bins = ((exponent - second) // 2 + 2).clamp_(min=1, max=EXPONENT_BINS - 1)
    bins[exponent < second] = 1
    bins[exponent < first] = 0
    bins[exponent >= last] = EXPONENT_BINS - 1
    bins[~torch.isfinite(values)] = EXPONENT_BINS
    bins[values == 0] = EXPONENT_BINS + 1
    return torch.bincount(rows * width + bins, minlength=total * width).reshape(total, width)
