"""What an optimizer step really did, from a fixed strided sample taken before and after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.reading.samples import flat_sample, plain
from gradscope.recording.facts import SKETCH_SIZE, SKETCHES, UPDATE_SAMPLE_SIZE, UPDATES

Rows = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sample of each of P parameters lies in one long vector.

    Attributes:
        ids: parameter ids ``[P]``.
        counts: elements of each parameter ``[P]``.
        starts: start of each sample ``[P]``; empty samples are left out of the layout.
        lengths: length of each sample ``[P]``.
    """

    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class UpdateWatch:
    """Compares samples of parameters before and after a step.

    Holds one sample of at most 4,096 elements a parameter between ``before`` and ``after``, and one
    from the first look for the distance travelled. No parameter or gradient is kept.
    """

    def __init__(self, *, exact: bool = False) -> None:
        """Make one; ``exact`` compares all elements, in the memory of a copy of all parameters."""
        self._size = sys.maxsize if exact else UPDATE_SAMPLE_SIZE
        self._origin: dict[int, Tensor] = {}
        self._taken: tuple[Layout, Tensor, Tensor] | None = None
        self._touched: dict[int, Tensor] = {}
        """Rows that a sparse gradient touches, by parameter id."""

    def drop(self) -> None:
        """Forget what ``before`` took."""
        self._taken = None

    @torch.no_grad()
    def before(
        self,
        parameters: Sequence[tuple[int, Tensor]],
        scale: Tensor | None = None,
        given: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Take the samples of parameters and their gradients just before the step.

        Of a parameter with a sparse gradient only the rows that it touches are looked at.

        Args:
            parameters: id and parameter.
            scale: what a fused optimizer will divide the gradients by, or None.
            given: gradients by id that are used in place of ``.grad``.
        """
        ids: list[int] = []
        values: list[Tensor] = []
        grads: list[Tensor] = []
        counts: list[int] = []
        self._touched = {}
        for identity, parameter in parameters:
            dense = plain(parameter)
            if dense is None or not dense.numel():
                continue
            grad = given.get(identity, parameter.grad) if given else parameter.grad
            slopes = self._slopes(identity, dense, grad)
            value = self._values(identity, dense)
            ids.append(identity)
            counts.append(dense.numel())
            values.append(value)
            grads.append(torch.full_like(value, torch.nan) if slopes is None else slopes)
        if not ids:
            self._taken = None
            return
        lengths = np.array([len(value) for value in values], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        layout = Layout(np.array(ids, np.int32), np.array(counts, np.int64), starts, lengths)
        gradient, before = _joined(grads), _joined(values)
        if scale is not None:
            gradient = gradient / float(scale)
        for identity, start, length in zip(ids, starts, lengths, strict=True):
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

    @torch.no_grad()
    def after(self, step: int, parameter: Callable[[int], Tensor | None]) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and of ``sketches`` for the samples taken by ``before``.

        Args:
            step: the step.
            parameter: the parameter with an id, None for one that is gone: none is held in between.
        """
        if self._taken is None:
            return np.zeros(0, UPDATES.dtype), np.zeros(0, SKETCHES.dtype)
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
        return self._rows(step, layout, (before, _joined(samples), gradient, _joined(first)))

    def _now(self, identity: int, parameter: Tensor | None) -> Tensor | None:
        dense = None if parameter is None else plain(parameter)
        return None if dense is None else self._values(identity, dense)

    @staticmethod
    def _rows(
        step: int, layout: Layout, read: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Rows, Rows]:
        old, new, grad, origin = (value.cpu().numpy().astype(np.float64) for value in read)
        delta = new - old
        rows = np.zeros(len(layout.ids), UPDATES.dtype)
        rows["step"] = step
        rows["parameter"] = layout.ids
        rows["count"] = layout.counts
        rows["looked_at"] = layout.lengths
        with np.errstate(invalid="ignore", over="ignore"):
            for name, values in (
                ("changed", new != old),
                ("before_sq", old * old),
                ("delta_sq", delta * delta),
                ("gradient_sq", grad * grad),
                ("progress", -grad * delta),
                ("distance_sq", (new - origin) ** 2),
            ):
                rows[name] = np.add.reduceat(values.astype(np.float64), layout.starts)
            sketches = np.concatenate(
                [
                    _sketch(step, layout, grad, of_update=0),
                    _sketch(step, layout, delta, of_update=1),
                ]
            )
        return rows, sketches


def _joined(samples: Sequence[Tensor]) -> Tensor:
    """One vector on the device of the first sample: a model may lie on several."""
    return torch.cat([sample.to(samples[0].device) for sample in samples])


# random signs from a generator of our own: the user's random state must not move
_SIGNS = np.random.Generator(np.random.PCG64(20_241_124)).choice([-1.0, 1.0], UPDATE_SAMPLE_SIZE)


def _sketch(step: int, layout: Layout, values: npt.NDArray[np.float64], *, of_update: int) -> Rows:
    """Count sketch: element i goes to bucket i mod 64 with a fixed random sign.

    E[<sketch(a), sketch(b)>] = <a, b> (Charikar, Chen and Farach-Colton 2002). Quantised to int8
    with one scale a row: relative error of a bucket at most 1/254 of the largest one.
    """
    total = len(layout.ids)
    position = np.arange(len(values)) - np.repeat(layout.starts, layout.lengths)
    signed = values * _SIGNS[position % UPDATE_SAMPLE_SIZE]
    row = np.repeat(np.arange(total), layout.lengths) * SKETCH_SIZE
    buckets = np.bincount(
        row + position % SKETCH_SIZE, weights=signed, minlength=total * SKETCH_SIZE
    ).reshape(total, SKETCH_SIZE)
    usable = np.isfinite(buckets).all(axis=1)
    buckets, ids = buckets[usable], layout.ids[usable]
    largest = np.abs(buckets).max(axis=1, initial=0.0)
    rows = np.zeros(len(ids), SKETCHES.dtype)
    rows["step"], rows["parameter"], rows["of_update"] = step, ids, of_update
    rows["scale"] = largest / 127
    with np.errstate(divide="ignore", invalid="ignore"):
        quantised = np.where(largest[:, None] > 0, buckets / (largest[:, None] / 127), 0.0)
    rows["values"] = np.rint(quantised)
    return rows
