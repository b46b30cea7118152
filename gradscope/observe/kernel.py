"""The compiled form of ``statistics.moments``: one C call reads each tensor once.

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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.recording.facts import EXPONENT_BINS, EXPONENT_EDGES

_log = logging.getLogger("gradscope")

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The number formats that the kernel reads, as it numbers them."""
_EDGES = np.array(EXPONENT_EDGES, np.int32)


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
            loaded.gradscope_moments.restype = None
        except (OSError, AttributeError) as error:
            # built for another machine: torch's operations do it
            _log.info("the compiled kernel %s cannot be used: %s", path.name, error)
            continue
        return loaded
    return None


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
    addresses = np.array([tensor.data_ptr() for tensor in tensors], np.int64)
    counts = np.array([tensor.numel() for tensor in tensors], np.int64)
    kinds = np.array([KINDS[tensor.dtype] for tensor in tensors], np.int32)
    numbers = np.zeros((total, 3))
    zeros = np.zeros(total, np.int32)
    bins = np.zeros((total, EXPONENT_BINS), np.uint16) if exponents else None
    loaded.gradscope_moments(
        ctypes.c_int64(total), _at(addresses), _at(counts), _at(kinds), _at(strides), _at(numbers),
        _at(zeros), None if bins is None else _at(bins), _at(_EDGES), ctypes.c_int32(len(_EDGES)),
    )  # fmt: skip
    return numbers, zeros, bins


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
