"""What an optimizer step really did, from a fixed strided sample taken before and after it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradscope.observe.samples import flat_sample, plain
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
        self._taken: tuple[list[tuple[int, Tensor]], Layout, Tensor, Tensor] | None = None

    @torch.no_grad()
    def before(self, parameters: Sequence[tuple[int, Tensor]], scale: Tensor | None = None) -> None:
        """Take the samples of parameters and their gradients just before the step.

        Args:
            parameters: id and parameter.
            scale: what a fused optimizer will divide the gradients by, or None.
        """
        kept: list[tuple[int, Tensor]] = []
        values: list[Tensor] = []
        grads: list[Tensor] = []
        counts: list[int] = []
        for identity, parameter in parameters:
            dense = plain(parameter)
            if dense is None or not dense.numel():
                continue
            sample = flat_sample(dense, self._size)
            grad = parameter.grad
            # a sparse gradient has no element at most positions: its inner product is not looked at
            usable = grad is not None and grad.layout is torch.strided
            dense_grad = plain(grad) if usable and grad is not None else None
            kept.append((identity, parameter))
            counts.append(dense.numel())
            values.append(sample.to(torch.float32))
            if dense_grad is not None and dense_grad.shape == dense.shape:
                grads.append(flat_sample(dense_grad, self._size).to(torch.float32))
            else:
                grads.append(torch.full_like(values[-1], torch.nan))
        if not kept:
            self._taken = None
            return
        lengths = np.array([len(value) for value in values], np.int64)
        layout = Layout(
            np.array([identity for identity, _ in kept], np.int32),
            np.array(counts, np.int64),
            np.concatenate([[0], np.cumsum(lengths)[:-1]]),
            lengths,
        )
        gradient, before = _joined(grads), _joined(values)
        if scale is not None:
            gradient = gradient / float(scale)
        for (identity, _), start, length in zip(kept, layout.starts, lengths, strict=True):
            origin = self._origin.get(identity)
            # a parameter that was given other data of another size begins anew
            if origin is None or len(origin) != length:
                self._origin[identity] = before[start : start + length].clone()
        self._taken = kept, layout, before, gradient

    @torch.no_grad()
    def after(self, step: int) -> tuple[Rows, Rows]:
        """Rows of ``updates`` and of ``sketches`` for the samples taken by ``before``."""
        if self._taken is None:
            return np.zeros(0, UPDATES.dtype), np.zeros(0, SKETCHES.dtype)
        kept, layout, before, gradient = self._taken
        self._taken = None
        now = _joined([self._sample(parameter) for _, parameter in kept])
        first = _joined([self._origin[identity] for identity, _ in kept])
        old, new, grad, origin = (
            value.cpu().numpy().astype(np.float64) for value in (before, now, gradient, first)
        )
        delta = new - old
        rows = np.zeros(len(kept), UPDATES.dtype)
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

    def _sample(self, parameter: Tensor) -> Tensor:
        dense = plain(parameter)
        assert dense is not None, "only parameters that could be read before the step are kept"
        return flat_sample(dense, self._size).to(torch.float32)


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
