"""What is needed to run a forward again exactly, and how to leave no trace of having done so."""

from __future__ import annotations

import contextlib
import random
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.birth.finite import Batch
from gradscope.observe.frames import Site, caller
from gradscope.observe.private_modules import tree_map
from gradscope.observe.reading.containers import tensors_in


@dataclass(frozen=True)
class RandomState:
    """States of all generators that a forward can draw from by default."""

    cpu: Tensor
    devices: tuple[Tensor, ...]
    python: Any
    numpy: Any

    @classmethod
    def now(cls) -> RandomState:
        """The present states; CUDA's only where CUDA is already in use."""
        numpy = np.random.get_state()  # noqa: NPY002  the user's code may draw from it
        return replace(cls.of_torch(), python=random.getstate(), numpy=numpy)

    @classmethod
    def of_torch(cls) -> RandomState:
        """Torch's states alone: Python's and numpy's cost a hundred times as much to read."""
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        devices = tuple(torch.cuda.get_rng_state_all()) if cuda else ()
        return cls(torch.get_rng_state(), devices, None, None)

    def equals(self, other: RandomState) -> bool:
        """Whether nothing was drawn between two readings of Python's and numpy's generators."""
        if (self.python is None) != (other.python is None):
            return False
        mine, theirs = self.numpy, other.numpy
        same = mine is None or (mine[2:] == theirs[2:] and bool((mine[1] == theirs[1]).all()))
        return same and self.python == other.python

    def restore(self) -> None:
        """Put the states back."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            torch.cuda.set_rng_state_all(list(self.devices))
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            np.random.set_state(self.numpy)  # noqa: NPY002


COPIED = 65_536
"""Elements up to which a buffer is copied; a larger one (a mask, a table) is kept as it is."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a root module and its arguments before one forward.

    It is taken on every step, so it is cheap: it holds the arguments without their graphs (sharing
    their memory), copies of small buffers, and nothing of the parameters: replay it before they
    are updated. Running statistics of a batch norm in training mode do not enter its output and
    are not copied.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        random: state of the generators.
        buffers: ``(module, name, value)`` of each buffer, the value None where it is not copied.
        modules: every module of the tree.
        training: the flag of each of them.
        autocast: ``(device type, enabled, dtype)``.
        site: the user's line that called the root, or None.
        versions: version counter of each tensor argument: it shows whether it was changed since.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: RandomState
    buffers: tuple[tuple[nn.Module, str, Tensor | None], ...]
    modules: tuple[nn.Module, ...]
    training: tuple[bool, ...]
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    site: Site | None = None
    versions: tuple[int, ...] = field(default=(), repr=False)

    def changed(self) -> bool:
        """Whether an argument was changed in place after the snapshot was taken."""
        now = tuple(map(private.version, tensors_in((self.args, self.kwargs))))
        return now != self.versions

    def batch_size(self) -> int | None:
        """Length of axis 0 of the first tensor argument that has one."""
        batch = self.batch()
        return None if batch is None else batch.size

    def batch(self) -> Batch | None:
        """How the samples lie, by the first tensor argument that has an axis."""
        for tensor in tensors_in((self.args, self.kwargs)):
            if tensor.dim():
                return Batch(tensor.shape[0], tensor.shape[1] if tensor.dim() > 1 else None)
        return None


class Layout:
    """Modules and buffers below each root, walked once and again on demand.

    Walking a tree of 200 modules takes longer than all the rest of a snapshot.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, _Below] = weakref.WeakKeyDictionary()

    def forget(self) -> None:
        """Walk each tree anew the next time: it may have changed."""
        self._known = weakref.WeakKeyDictionary()

    def below(self, root: nn.Module) -> _Below:
        """What is below ``root``."""
        known = self._known.get(root)
        if known is None:
            known = self._known[root] = _Below.of(root)
        return known


@dataclass(frozen=True)
class _Below:
    """References to the modules below a root; those that have buffers come with their names."""

    modules: tuple[weakref.ref[nn.Module], ...]
    buffers: tuple[tuple[weakref.ref[nn.Module], str], ...]

    @classmethod
    def of(cls, root: nn.Module) -> _Below:
        references = [weakref.ref(module) for module in root.modules()]
        named = [(ref, name) for ref in references if (m := ref()) for name in m._buffers]
        return cls(tuple(references), tuple(named))


def take_snapshot(
    root: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    torch_only: bool = False,
    layout: Layout | None = None,
) -> Snapshot:
    """Keep what a later ``replay`` of this call of ``root`` needs; call it before the forward.

    Args:
        root: the module that is about to be called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        torch_only: leave out Python's and numpy's generators, for a forward that was seen not to
            draw from them.
        layout: remembers the tree between snapshots.
    """
    if _flat(args) and _flat(kwargs.values()):
        # the usual case, in a tenth of the time
        args = tuple([without_graph(value) for value in args])
        kwargs = {name: without_graph(value) for name, value in kwargs.items()}
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    else:
        args, kwargs = tree_map(without_graph, args), tree_map(without_graph, kwargs)
        tensors = tensors_in((args, kwargs))
    below = (layout or Layout()).below(root)
    modules = tuple([module for ref in below.modules if (module := ref()) is not None])
    with torch.no_grad():
        buffers = tuple(
            [
                (module, name, _kept(module, buffer))
                for ref, name in below.buffers
                if (module := ref()) is not None
                and (buffer := module._buffers.get(name)) is not None
            ]
        )
    return Snapshot(
        args=args,
        kwargs=kwargs,
        random=RandomState.of_torch() if torch_only else RandomState.now(),
        buffers=buffers,
        modules=modules,
        training=tuple([module.training for module in modules]),
        autocast=tuple(
            [
                (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in (("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",))
            ]
        ),
        site=caller(),
        versions=tuple([private.version(tensor) for tensor in tensors]),
    )


def _flat(values: Iterable[Any]) -> bool:
    return all(isinstance(v, (Tensor, int, float, str, type(None))) for v in values)


_WITH_STATISTICS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


def _kept(module: nn.Module, buffer: Tensor) -> Tensor | None:
    statistics = isinstance(module, _WITH_STATISTICS) and module.training
    return None if statistics or buffer.numel() > COPIED else buffer.clone()


def fresh_statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """In place of running statistics that the forward has spoilt and does not use."""
    if not (isinstance(module, _WITH_STATISTICS) and module.training):
        return
    for name in ("running_mean", "running_var"):
        buffer = module._buffers.get(name)
        if buffer is not None and not bool(torch.isfinite(buffer).all()):
            yield (
                name,
                torch.zeros_like(buffer) if name.endswith("mean") else torch.ones_like(buffer),
            )


def without_graph(value: Any) -> Any:
    """A tensor without its graph, sharing its memory, that requires grad as before; else itself."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    return value.detach().requires_grad_()


@contextlib.contextmanager
def restored(snapshot: Snapshot) -> Iterator[None]:
    """The state of ``snapshot`` inside, the present state again afterwards.

    Buffers are exchanged for copies instead of being written to, so a graph that saved one of them
    stays valid.
    """
    present = RandomState.now()
    buffers = [(m, name, m._buffers.get(name)) for m, name, _ in snapshot.buffers]
    training = [(m, m.training) for m in snapshot.modules]
    try:
        snapshot.random.restore()
        for (module, name, kept), (_, _, buffer) in zip(snapshot.buffers, buffers, strict=True):
            value = buffer if kept is None else kept
            module._buffers[name] = None if value is None else value.detach().clone()
        for module, flag in zip(snapshot.modules, snapshot.training, strict=True):
            module.training = flag
            module._buffers.update(fresh_statistics(module))
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in snapshot.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield
    finally:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for module, flag in training:
            module.training = flag
        present.restore()
