"""Modules and parameters as records of the recording's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.observe.naming import Place
from gradscope.observe.reading.samples import plain
from gradscope.observe.reading.slopes import module_kind
from gradscope.observe.statistics import moments

Site = tuple[str, int, str] | None

_SETTINGS = (
    "in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride",
    "padding", "dilation", "groups", "num_features", "num_channels", "num_groups",
    "normalized_shape", "num_embeddings", "embedding_dim", "input_size", "hidden_size",
    "num_layers", "bidirectional", "batch_first", "embed_dim", "num_heads", "p", "eps", "momentum",
    "affine", "elementwise_affine", "negative_slope", "alpha", "approximate", "inplace", "dim",
)  # fmt: skip


def module_record(
    module: nn.Module, place: Place, label: str | None, site: Site, step: int
) -> dict[str, Any]:
    """The record of one module without what only a forward shows (order, calls)."""
    kind = module_kind(module)
    settings = _settings(module)
    parameters = dict(module._parameters.items())  # a TorchScript module's are no dict
    if "weight" in parameters:
        settings["bias"] = parameters.get("bias") is not None
    return {
        "module": place.identity,
        "root": place.root,
        "root_label": label,
        "trained": None,
        "path": place.path,
        "aliases": place.aliases,
        "type": type(module).__name__,
        "torch_type": next(
            (c.__name__ for c in type(module).__mro__ if c.__module__.startswith("torch.nn")), None
        ),
        "leaf": not module._modules,
        "registered": place.registered,
        "activation": None if kind is None else int(kind),
        "parameters": sum(
            p.numel() for p in parameters.values() if p is not None and not is_lazy(p)
        ),
        "order": None,
        "calls": None,
        "settings": settings,
        "file": site and site[0],
        "line": site and site[1],
        "built_by": site and site[2],
        "step": step,
    }


def _settings(module: nn.Module) -> dict[str, Any]:
    # what a module lacks is an exception inside nn.Module.__getattr__: its __dict__ is much faster
    scripted = isinstance(module, torch.jit.ScriptModule)
    known = {n: getattr(module, n, None) for n in _SETTINGS} if scripted else vars(module)
    return {
        name: value
        for name in _SETTINGS
        if isinstance(value := known.get(name), (bool, int, float, str, tuple))
    }


def parameter_record(
    parameter: Tensor, place: Place, optimizer: tuple[int, int], step: int
) -> dict[str, Any]:
    """The record of one parameter without its ``initial_statistics`` and what the graph shows."""
    shape = shape_of(parameter)
    fan_in, fan_out = fans(shape)
    return {
        "parameter": place.identity,
        "root": place.root,
        "path": place.path,
        "aliases": place.aliases,
        "module": place.owner,
        "shape": shape,
        "count": parameter.numel(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "shard": shard_of(parameter),
        "requires_grad": parameter.requires_grad,
        "registered": place.registered,
        "optimizer": optimizer[0],
        "group": optimizer[1],
        "fan_in": fan_in,
        "fan_out": fan_out,
        "reached": None,
        "step": step,
        **UNREAD,
    }


UNREAD: Mapping[str, Any] = {"initial_mean": None, "initial_std": None, "equal_rows": None}
"""Initial statistics of a parameter that cannot be read."""


@torch.no_grad()
def initial_statistics(parameters: Sequence[Tensor]) -> list[Mapping[str, Any]]:
    """Mean, spread and row equality of each parameter; ``UNREAD`` where it cannot be read."""
    dense = [plain(p) if p.layout is torch.strided else None for p in parameters]
    readable: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for index, tensor in enumerate(dense):
        if tensor is not None and tensor.numel() and not tensor.is_meta:
            readable.setdefault(tensor.device, []).append((index, tensor))
    found = [UNREAD] * len(parameters)
    for on_device in readable.values():
        # from two sums, not std(): it would make a copy of a half-precision tensor
        read = moments([tensor for _, tensor in on_device], exponents=False)
        means, squares = read.sum / read.count, read.sum_sq / read.count
        for (index, tensor), mean, square in zip(on_device, means, squares, strict=True):
            std = math.sqrt(max(square - mean * mean, 0.0)) if math.isfinite(square) else math.nan
            found[index] = {
                "initial_mean": float(mean),
                "initial_std": std,
                "equal_rows": _equal_rows(tensor),
            }
    return found


def _equal_rows(tensor: Tensor) -> bool | None:
    """Whether the first rows, at most three, are alike: random weights have no two."""
    if tensor.dim() < 2 or tensor.shape[0] < 2:
        return None
    return all(torch.equal(tensor[0], tensor[row]) for row in range(1, min(3, tensor.shape[0])))


def shard_of(parameter: Tensor) -> dict[str, Any] | None:
    """Of how many parts a DTensor's part on this rank is one; None for a tensor that is whole."""
    placements, mesh = (
        getattr(parameter, "placements", None),
        getattr(parameter, "device_mesh", None),
    )
    if placements is None or mesh is None:
        return None
    where = mesh.get_coordinate() or [0] * len(placements)
    parts, copy = 1, False
    for axis, placement in enumerate(placements):
        if placement.is_shard():
            parts *= int(mesh.size(axis))
        elif where[axis]:
            copy = True
    return {"parts": parts, "copy": copy} if parts > 1 else None


def shape_of(tensor: Tensor) -> list[int]:
    """Length of each axis, -1 for one whose length differs from piece to piece (nested tensors)."""
    if tensor.is_nested and tensor.layout is torch.strided:
        return [tensor.size(0), *[-1] * (tensor.dim() - 1)]
    return lengths(tensor.shape)


def lengths(shape: Sequence[Any]) -> list[int]:
    """A shape as JSON can hold it, -1 for a length that is no number."""
    return [size if type(size) is int else -1 for size in shape]


def fans(shape: list[int]) -> tuple[int | None, int | None]:
    """Fan in and fan out of a weight: inputs (outputs) times receptive field; None for vectors."""
    if len(shape) < 2 or min(shape) < 0:
        return None, None
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field
