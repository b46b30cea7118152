"""Samples of parameters before and after a step, read where they lie by the compiled kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe import kernel
from gradscope.observe.reading.samples import sample_stride
from gradscope.observe.reading.update_rows import SIGNS, Layout, Read, Rows, no_rows, rows_of

_Vector = npt.NDArray[np.float32]


class KernelUpdates:
    """The part of ``UpdateWatch`` for plain tensors on the CPU; keeps its memory between steps."""

    def __init__(self, size: int) -> None:
        """Make one that looks at ``size`` elements of a parameter at most."""
        self._size = size
        self._key: list[tuple[int, int, torch.dtype]] = []
        """Id, elements and format of the parameters that the memory is laid out for."""
        self._taken = False

    def reads(self, parameter: Tensor, grad: Tensor | None) -> bool:
        """Whether the kernel can read a parameter and its gradient."""
        return _readable(parameter) and (
            grad is None or (_readable(grad) and grad.shape == parameter.shape)
        )

    def drop(self) -> None:
        """Forget what ``before`` took."""
        self._taken = False

    def before(self, items: Sequence[Read], divisor: float | None) -> None:
        """Take the samples; gradients are divided by ``divisor``."""
        self._taken = bool(items)
        if not items:
            return
        key = [(identity, value.numel(), value.dtype) for identity, value, _ in items]
        values = [value for _, value, _ in items]
        new = key != self._key
        if new:
            known = self._origins()
            self._lay_out(key)
        kernel.samples(values, self._where, self._before)
        if new:
            self._origin = self._before.copy()
            for parameter, part in zip(key, self._parts(), strict=True):
                # a parameter that was given other data of another size begins anew
                part[:] = known.get(parameter, part)
        kinds = np.array([0 if g is None else kernel.KINDS[g.dtype] for _, _, g in items], np.int32)
        where = kernel.Samples(kinds, self._where.strides, self._where.starts, self._where.lengths)
        kernel.samples([grad for _, _, grad in items], where, self._gradient)
        if divisor is not None:
            self._gradient /= np.float32(divisor)

    def after(self, step: int, parameter: Callable[[int], Tensor | None]) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and ``sketches``."""
        if not self._taken:
            return no_rows()
        self._taken = False
        now: list[Tensor | None] = []
        for identity, count, dtype in self._key:
            value = parameter(identity)
            if value is None or not _readable(value):
                now.append(None)  # it is gone, or has other data
            else:
                now.append(value if (value.numel(), value.dtype) == (count, dtype) else None)
        sums, sketches = kernel.updates(
            now, self._where, self._before, self._gradient, self._origin, SIGNS
        )
        return rows_of(step, self._layout, sums, sketches)

    def _lay_out(self, key: list[tuple[int, int, torch.dtype]]) -> None:
        counts = np.array([count for _, count, _ in key], np.int64)
        strides = sample_stride(counts, self._size)
        lengths = -(-counts // strides)
        layout = Layout.of([i for i, _, _ in key], counts.tolist(), lengths.tolist())
        kinds = np.array([kernel.KINDS[dtype] for _, _, dtype in key], np.int32)
        self._where = kernel.Samples(kinds, strides, layout.starts, layout.lengths)
        total = int(lengths.sum())
        self._before, self._gradient = np.empty(total, np.float32), np.empty(total, np.float32)
        self._key, self._layout = key, layout

    def _parts(self) -> list[_Vector]:
        return np.split(self._origin, self._layout.starts[1:])

    def _origins(self) -> dict[tuple[int, int, torch.dtype], _Vector]:
        return dict(zip(self._key, self._parts(), strict=True)) if self._key else {}


def _readable(tensor: Tensor) -> bool:
    return (
        type(tensor) in (torch.nn.Parameter, Tensor)
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and tensor.is_contiguous()
        and kernel.reads(tensor)
        and tensor.numel() > 0
    )
