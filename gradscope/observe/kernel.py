"""The compiled form of ``statistics.moments`` and of what an update did: one C call a step.

It is optional. Where it was not built, or is switched off by ``GRADSCOPE_KERNEL=0``, torch's own
operations give the same numbers within rounding. Loaded with ctypes, it is bound to no version of
Python or torch, and holds no lock of the interpreter while it reads.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.reading.samples import is_dense
from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES, SKETCH_SIZE

_log = logging.getLogger("gradscope")

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The number formats that the kernel reads, as it numbers them."""
_EDGES = np.array(EXPONENT_EDGES, np.int32)
_EDGES_AT, _EDGE_COUNT = ctypes.c_void_p(_EDGES.ctypes.data), ctypes.c_int32(len(_EDGES))
_Three = ctypes.c_double * 3


@functools.cache
def library() -> Any | None:
    """The loaded library, or None where there is none."""
    if os.environ.get("GRADSCOPE_KERNEL") == "0":
        return None
    for path in sorted(Path(__file__).parent.glob("_moments.*")):
        if path.suffix not in (".so", ".dylib"):
            continue
        try:
            loaded = ctypes.CDLL(str(path))
            for function in ("moments", "samples", "updates"):
                getattr(loaded, f"gradscope_{function}").restype = None
        except (OSError, AttributeError) as error:
            # built for another machine: torch's operations do it
            _log.info("the compiled kernel %s cannot be used: %s", path.name, error)
            continue
        return loaded
    return None


def reads(tensor: Tensor) -> bool:
    """Whether the kernel can read a tensor: it was built, and the tensor is dense, on the CPU."""
    return (
        library() is not None
        and tensor.is_cpu
        and tensor.dtype in KINDS
        and not tensor.is_neg()  # a view that turns the sign without having written it
        and is_dense(tensor)
    )


def moments(
    tensors: Sequence[Tensor], strides: npt.NDArray[np.int64], *, exponents: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32], npt.NDArray[np.uint16] | None]:
    """Statistics of P tensors on the CPU, of formats in KINDS, that lie densely in memory.

    Args:
        tensors: P tensors; an empty one has all zeros.
        strides: ``[P]``, stride of each sample.
        exponents: also make the histogram.

    Returns:
        ``[P, 3]`` sum, sum of squares and largest magnitude; ``[P]`` zeros in the sample;
        ``[P, EXPONENT_BINS]`` histogram of the sample.

    Sums of float32, bfloat16 and float16 are made of blocks of 8 elements in float32, the blocks in
    float64: the error of a sum is at most 8 roundings of float32, 5e-7 of the sum of magnitudes.
    """
    loaded = library()
    assert loaded is not None, "the caller asks first"
    total = len(tensors)
    counts = np.array([tensor.numel() for tensor in tensors], np.int64)
    kinds = np.array([KINDS[tensor.dtype] for tensor in tensors], np.int32)
    numbers = np.zeros((total, 3))
    zeros = np.zeros(total, np.int32)
    bins = np.zeros((total, EXPONENT_BINS), np.uint16) if exponents else None
    addresses = _addresses(tensors)
    loaded.gradscope_moments(
        ctypes.c_int64(total), _at(addresses), _at(counts), _at(kinds), _at(strides), _at(numbers),
        _at(zeros), None if bins is None else _at(bins), _EDGES_AT, _EDGE_COUNT,
    )  # fmt: skip
    return numbers, zeros, bins


def moments_of(tensor: Tensor, stride: int) -> tuple[float, float, float, float]:
    """What ``moments`` says of one tensor: sum, sum of squares, largest magnitude, zeros in sample.

    Without the arrays of many, in a third of the time: an activation is read when it comes.
    """
    loaded = library()
    assert loaded is not None, "the caller asks first"
    address, count = ctypes.c_int64(tensor.data_ptr()), ctypes.c_int64(tensor.numel())
    kind, step = ctypes.c_int32(KINDS[tensor.dtype]), ctypes.c_int64(stride)
    zeros, numbers = ctypes.c_int32(), _Three()
    loaded.gradscope_moments(
        ctypes.c_int64(1), ctypes.byref(address), ctypes.byref(count), ctypes.byref(kind),
        ctypes.byref(step), numbers, ctypes.byref(zeros), None, _EDGES_AT, _EDGE_COUNT,
    )  # fmt: skip
    return numbers[0], numbers[1], numbers[2], float(zeros.value)


@dataclass(frozen=True, slots=True)
class Samples:
    """Which elements are looked at of each of P dense tensors on the CPU; arrays ``[P]``.

    Attributes:
        kinds: number formats as in KINDS, int32.
        strides: distance between two elements, int64.
        starts: where each sample begins in one long vector, int64.
        lengths: length of each sample, int64.
    """

    kinds: npt.NDArray[np.int32]
    strides: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def check(self, tensors: int, *vectors: int) -> None:
        """Raise ValueError unless there are as many tensors, and vectors as long as is needed."""
        arrays = {len(self.kinds), len(self.strides), len(self.starts), len(self.lengths)}
        total = int(self.starts[-1] + self.lengths[-1]) if tensors else 0
        if arrays != {tensors} or any(length < total for length in vectors):
            raise ValueError(f"{tensors} tensors, {arrays} places, {vectors} for {total} elements")


def samples(
    tensors: Sequence[Tensor | None], where: Samples, into: npt.NDArray[np.float32]
) -> None:
    """Write the samples of P tensors into one vector, NaN for a tensor that is None.

    Raises:
        ValueError: lengths that do not agree: C would write beyond the end.
    """
    loaded = library()
    assert loaded is not None, "the caller asks first"
    where.check(len(tensors), len(into))
    addresses = _addresses(tensors)
    loaded.gradscope_samples(
        ctypes.c_int64(len(tensors)), _at(addresses), _at(where.kinds),
        _at(where.strides), _at(where.starts), _at(where.lengths), _at(into),
    )  # fmt: skip


def updates(
    tensors: Sequence[Tensor | None],
    where: Samples,
    before: npt.NDArray[np.float32],
    gradient: npt.NDArray[np.float32],
    origin: npt.NDArray[np.float32],
    signs: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What a step did to the samples of P tensors.

    Args:
        tensors: the tensors after the step; None for one that is gone, whose sums are NaN.
        where: what was looked at.
        before: samples of the values before the step, as ``samples`` wrote them.
        gradient: those of the gradients.
        origin: those of the values at the first look.
        signs: of the count sketch, repeated; a multiple of SKETCH_SIZE.

    Returns:
        ``[P, 6]``: elements changed, and sums of before², delta², gradient², -gradient * delta
        and (now - origin)². ``[P, 2, SKETCH_SIZE]``: count sketches of the gradient and of delta.
        All of it in float64.

    Raises:
        ValueError: lengths that do not agree.
    """
    loaded = library()
    assert loaded is not None, "the caller asks first"
    where.check(len(tensors), len(before), len(gradient), len(origin))
    total = len(tensors)
    sums = np.zeros((total, 6))
    sketches = np.zeros((total, 2, SKETCH_SIZE))
    addresses = _addresses(tensors)
    loaded.gradscope_updates(
        ctypes.c_int64(total), _at(addresses), _at(where.kinds), _at(where.strides),
        _at(where.starts), _at(where.lengths), _at(before), _at(gradient), _at(origin), _at(signs),
        ctypes.c_int64(len(signs)), _at(sums), _at(sketches),
    )  # fmt: skip
    return sums, sketches


def _addresses(tensors: Sequence[Tensor | None]) -> npt.NDArray[np.int64]:
    return np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    """Where an array lies; it does not keep the array alive, which must have a name of its own."""
    return ctypes.c_void_p(array.ctypes.data)
