"""Samples of parameters before and after a step, read where they lie by the compiled kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe import kernel
from gradscope.observe.reading.samples import sample_stride
from gradscope.observe.reading.update_rows import SIGNS, Layout, Read, Rows, no_rows, rows_of

_Vector = npt.NDArray[np.float32]
_Key = tuple[int, int, torch.dtype]
"""Id, elements and format of a parameter."""
LAYOUTS = 8
"""Sets of parameters whose memory is kept: the optimizers of a GAN step in turn."""


@dataclass(frozen=True, slots=True)
class _Laid:
    """Memory for one set of parameters: their samples, one behind the other."""

    keys: tuple[_Key, ...]
    layout: Layout
    where: kernel.Samples
    before: _Vector
    gradient: _Vector
    origin: _Vector


class KernelUpdates:
    """The part of ``UpdateWatch`` for plain tensors on the CPU; keeps its memory between steps."""

    def __init__(self, size: int) -> None:
        """Make one that looks at ``size`` elements of a parameter at most."""
        self._size = size
        self._known: dict[tuple[_Key, ...], _Laid] = {}
        self._origins: dict[_Key, _Vector] = {}
        """Values at the first look; a parameter that got other data of another size begins anew."""
        # one attribute, read once: while the kernel runs, another thread may train as well
        self._taken: _Laid | None = None

    def reads(self, parameter: Tensor, grad: Tensor | None) -> bool:
        """Whether the kernel can read a parameter and its gradient."""
        return _readable(parameter) and (
            grad is None or (_readable(grad) and grad.shape == parameter.shape)
        )

    def drop(self) -> None:
        """Forget what ``before`` took."""
        self._taken = None

    def before(self, items: Sequence[Read], divisor: float | None) -> None:
        """Take the samples; gradients are divided by ``divisor``."""
        self._taken = None
        if not items:
            return
        keys = tuple([(identity, value.numel(), value.dtype) for identity, value, _ in items])
        values = [value for _, value, _ in items]
        laid = self._known.get(keys) or self._lay_out(keys, values)
        kernel.samples(values, laid.where, laid.before)
        kinds = np.array([0 if g is None else kernel.KINDS[g.dtype] for _, _, g in items], np.int32)
        where = kernel.Samples(kinds, laid.where.strides, laid.where.starts, laid.where.lengths)
        kernel.samples([grad for _, _, grad in items], where, laid.gradient)
        if divisor is not None:
            np.divide(laid.gradient, np.float32(divisor), out=laid.gradient)
        self._taken = laid

    def after(self, step: int, parameter: Callable[[int], Tensor | None]) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and ``sketches``."""
        laid, self._taken = self._taken, None
        if laid is None:
            return no_rows()
        now: list[Tensor | None] = []
        for identity, count, dtype in laid.keys:
            value = parameter(identity)
            if value is None or not _readable(value):
                now.append(None)  # it is gone, or has other data
            else:
                now.append(value if (value.numel(), value.dtype) == (count, dtype) else None)
        sums, sketches = kernel.updates(
            now, laid.where, laid.before, laid.gradient, laid.origin, SIGNS
        )
        return rows_of(step, laid.layout, sums, sketches)

    def _lay_out(self, keys: tuple[_Key, ...], values: Sequence[Tensor]) -> _Laid:
        counts = np.array([count for _, count, _ in keys], np.int64)
        strides = sample_stride(counts, self._size)
        layout = Layout.of(
            [identity for identity, _, _ in keys], counts.tolist(), (-(-counts // strides)).tolist()
        )
        kinds = np.array([kernel.KINDS[dtype] for _, _, dtype in keys], np.int32)
        where = kernel.Samples(kinds, strides, layout.starts, layout.lengths)
        total = int(layout.lengths.sum())
        before, gradient, origin = (np.empty(total, np.float32) for _ in range(3))
        kernel.samples(values, where, origin)
        for key, part in zip(keys, np.split(origin, layout.starts[1:]), strict=True):
            part[:] = self._origins.setdefault(key, part)
        if len(self._known) >= LAYOUTS:
            self._known.clear()
        laid = self._known[keys] = _Laid(keys, layout, where, before, gradient, origin)
        return laid


def _readable(tensor: Tensor) -> bool:
    return (
        type(tensor) in (torch.nn.Parameter, Tensor)
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and tensor.is_contiguous()
        and kernel.reads(tensor)
        and tensor.numel() > 0
    )
