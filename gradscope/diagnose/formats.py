"""Number formats: how far a gradient is from the smallest number that its format can hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording.reader import Recording

FLOOR = {"float16": -24, "bfloat16": -133}
"""Binary exponent of the smallest number above zero (subnormal) of the 16-bit formats: IEEE 754
binary16 has 2**-24, and 2**-14 as its smallest normal number; bfloat16 has 2**-133 and 2**-126."""
DIGITS = {"float16": 11, "bfloat16": 8}
"""Significant bits of a normal number, the hidden one included."""
HALF = tuple(FLOOR)
"""The formats with so few bits that range or precision can stop a training."""


def bits_left(frame: pd.DataFrame, floor: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Binary digits between the RMS of the elements that are not zero and the format's floor.

    A rounded number of this size has about as many significant bits, up to those of the format; at
    0 it is one unit of the floor, below it is rounded to zero.

    Args:
        frame: columns ``sum_sq``, ``count``, ``zeros`` and ``looked_at`` of ``n`` tensors.
        floor: binary exponent of the floor, one or ``[n]``.

    Returns:
        ``[n]``; ``-inf`` for a tensor that is exactly zero, NaN where it was not read.
    """
    looked_at = frame["looked_at"].to_numpy(float)
    zeros = np.where(looked_at > 0, frame["zeros"].to_numpy(float) / np.maximum(looked_at, 1), 0.0)
    total = frame["sum_sq"].to_numpy(float)
    # a sample of zeros only may miss the few elements that are not
    share = np.maximum(1.0 - zeros, 1.0 / np.maximum(looked_at, 1.0))
    alive = np.maximum(frame["count"].to_numpy(float) * share, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.log2(total / alive) / 2
    return np.asarray(bits - np.asarray(floor, float))


def output_formats(recording: Recording) -> dict[int, str]:
    """Format of each leaf module's output by module id; that of its parameters where not seen."""
    own: dict[int, str] = {}
    for row in recording.parameters.itertuples():
        own.setdefault(int(row.module), str(row.dtype))
    found: dict[int, str] = {}
    for row in recording.modules.itertuples():
        seen = row.output_dtype if isinstance(row.output_dtype, str) else None
        dtype = seen or own.get(int(row.module))
        if row.leaf and dtype:
            found[int(row.module)] = dtype
    return found
