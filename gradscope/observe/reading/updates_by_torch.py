"""Samples of parameters before and after a step, by torch: of any device and kind of tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gradscope.observe.reading.samples import flat_sample, plain
from gradscope.observe.reading.update_rows import (
    Floats,
    Layout,
    Read,
    Rows,
    no_rows,
    rows_of,
    sums_and_sketches,
)


class TorchUpdates:
    """The part of ``UpdateWatch`` for whatever the compiled kernel does not read."""

    def __init__(self, size: int) -> None:
        """Make one that looks at ``size`` elements of a parameter at most."""
        self._size = size
        self._origin: dict[int, Tensor] = {}
        self._taken: tuple[Layout, Tensor, Tensor] | None = None
        self._touched: dict[int, Tensor] = {}
        """Rows that a sparse gradient touches, by parameter id."""

    def drop(self) -> None:
        """Forget what ``before`` took."""
        self._taken = None

    def before(self, items: Sequence[Read], divisor: float | None) -> None:
        """Take the samples; gradients are divided by ``divisor``."""
        ids: list[int] = []
        values: list[Tensor] = []
        grads: list[Tensor] = []
        counts: list[int] = []
        self._touched = {}
        for identity, parameter, grad in items:
            dense = plain(parameter)
            if dense is None or not dense.numel():
                continue
            slopes = self._slopes(identity, dense, grad)
            value = self._values(identity, dense)
            ids.append(identity)
            counts.append(dense.numel())
            values.append(value)
            grads.append(torch.full_like(value, torch.nan) if slopes is None else slopes)
        if not ids:
            self._taken = None
            return
        layout = Layout.of(ids, counts, [len(value) for value in values])
        gradient, before = _joined(grads), _joined(values)
        if divisor is not None:
            gradient = gradient / divisor
        for identity, start, length in zip(ids, layout.starts, layout.lengths, strict=True):
            origin = self._origin.get(identity)
            # a parameter that was given other data of another size begins anew
            if identity not in self._touched and (origin is None or len(origin) != length):
                self._origin[identity] = before[start : start + length].clone()
        self._taken = layout, before, gradient

    def _slopes(self, identity: int, dense: Tensor, grad: Tensor | None) -> Tensor | None:
        """The gradient at the elements that are looked at; remembers the rows of a sparse one."""
        if grad is None:
            return None
        if grad.layout is torch.sparse_coo and grad.sparse_dim() == 1 and dense.dim():
            grad = grad.detach().coalesce()
            if not grad.values().numel():
                return None
            self._touched[identity] = grad.indices()[0]
            return flat_sample(grad.values(), self._size).to(torch.float32)
        found = plain(grad) if grad.layout is torch.strided else None
        if found is None or found.shape != dense.shape:
            return None
        return flat_sample(found, self._size).to(torch.float32)

    def _values(self, identity: int, dense: Tensor) -> Tensor:
        rows = self._touched.get(identity)
        some = dense if rows is None else dense[rows]
        return flat_sample(some, self._size).to(torch.float32)

    def after(self, step: int, parameter: Callable[[int], Tensor | None]) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and ``sketches``."""
        if self._taken is None:
            return no_rows()
        layout, before, gradient = self._taken
        self._taken = None
        samples, first = [], []
        for identity, start, length in zip(
            layout.ids.tolist(), layout.starts, layout.lengths, strict=True
        ):
            old = before[start : start + length]
            now = self._now(identity, parameter(identity))
            if now is None or len(now) != length:  # it is gone, or has other data
                now = torch.full_like(old, torch.nan)
            samples.append(now)
            away = identity in self._touched
            first.append(torch.full_like(old, torch.nan) if away else self._origin[identity])
        read = [_float64(v) for v in (before, _joined(samples), gradient, _joined(first))]
        return rows_of(step, layout, *sums_and_sketches(layout, *read))

    def _now(self, identity: int, parameter: Tensor | None) -> Tensor | None:
        dense = None if parameter is None else plain(parameter)
        return None if dense is None else self._values(identity, dense)


def _joined(samples: Sequence[Tensor]) -> Tensor:
    """One vector on the device of the first sample: a model may lie on several."""
    return torch.cat([sample.to(samples[0].device) for sample in samples])


def _float64(values: Tensor) -> Floats:
    numbers: Floats = values.cpu().numpy().astype(np.float64)
    return numbers
