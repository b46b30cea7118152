"""What is needed to run a forward again exactly, and how to leave no trace of having done so."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from gradscope.observe import private
from gradscope.observe.frames import Site, caller


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
        training: ``(module, flag)`` of each module.
        autocast: ``(device type, enabled, dtype)``.
        site: the user's line that called the root, or None.
        versions: version counter of each tensor argument: it shows whether it was changed since.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: RandomState
    buffers: tuple[tuple[nn.Module, str, Tensor | None], ...]
    training: tuple[tuple[nn.Module, bool], ...]
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    site: Site | None = None
    versions: tuple[int, ...] = field(default=(), repr=False)

    def changed(self) -> bool:
        """Whether an argument was changed in place after the snapshot was taken."""
        now = tuple(map(private.version, tensors_in((self.args, self.kwargs))))
        return now != self.versions

    def batch_size(self) -> int | None:
        """Length of axis 0 of the first tensor argument that has one."""
        tensors = tensors_in((self.args, self.kwargs))
        return next((t.shape[0] for t in tensors if t.dim()), None)


def take_snapshot(
    root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, torch_only: bool = False
) -> Snapshot:
    """Keep what a later ``replay`` of this call of ``root`` needs; call it before the forward.

    With ``torch_only`` a forward that draws from Python's or numpy's generator is not reproduced.
    """
    args, kwargs = tree_map(without_graph, args), tree_map(without_graph, kwargs)
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    modules = list(root.modules())
    with torch.no_grad():
        buffers = tuple(
            (module, name, _kept(module, buffer))
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        )
    return Snapshot(
        args=args,
        kwargs=kwargs,
        random=RandomState.of_torch() if torch_only else RandomState.now(),
        buffers=buffers,
        training=tuple([(module, module.training) for module in modules]),
        autocast=tuple(
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in kinds
        ),
        site=caller(),
        versions=tuple(map(private.version, tensors_in((args, kwargs)))),
    )


def _kept(module: nn.Module, buffer: Tensor) -> Tensor | None:
    statistics = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    return None if statistics or buffer.numel() > COPIED else buffer.clone()


def without_graph(value: Any) -> Any:
    """A tensor without its graph, sharing its memory, that requires grad as before; else itself."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    return value.detach().requires_grad_()


def tensors_in(tree: Any) -> list[Tensor]:
    """Tensors in nested containers; those of dataclasses and objects with attributes included."""
    found = []
    for leaf in tree_flatten(tree)[0]:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif not isinstance(leaf, (str, bytes, int, float, type(None))):
            found.extend(t for t in getattr(leaf, "__dict__", {}).values() if isinstance(t, Tensor))
    return found


@contextlib.contextmanager
def restored(snapshot: Snapshot) -> Iterator[None]:
    """The state of ``snapshot`` inside, the present state again afterwards.

    Buffers are exchanged for copies instead of being written to, so a graph that saved one of them
    stays valid.
    """
    present = RandomState.now()
    buffers = [(m, name, m._buffers.get(name)) for m, name, _ in snapshot.buffers]
    training = [(m, m.training) for m, _ in snapshot.training]
    try:
        snapshot.random.restore()
        for (module, name, kept), (_, _, buffer) in zip(snapshot.buffers, buffers, strict=True):
            value = buffer if kept is None else kept
            module._buffers[name] = None if value is None else value.detach().clone()
        for module, flag in snapshot.training:
            module.training = flag
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
