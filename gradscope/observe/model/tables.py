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
    settings = {
        name: value
        for name in _SETTINGS
        if isinstance(value := getattr(module, name, None), (bool, int, float, str, tuple))
    }
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


@torch.no_grad()
def parameter_record(
    parameter: Tensor, place: Place, optimizer: tuple[int, int], step: int
) -> dict[str, Any]:
    """The record of one parameter without what the graph shows (reached or not)."""
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
        **initial_statistics(parameter),
    }


def initial_statistics(parameter: Tensor) -> Mapping[str, Any]:
    """Mean, spread and row equality of a parameter; None where it cannot be read."""
    dense = plain(parameter) if parameter.layout is torch.strided else None
    if dense is None or not dense.numel() or dense.is_meta:
        return {"initial_mean": None, "initial_std": None, "equal_rows": None}
    number = dense.dtype if dense.dtype == torch.float64 else torch.float32
    mean = float(dense.mean(dtype=number))
    # from two sums, not std(): it makes no copy of a half-precision tensor
    square = float(torch.linalg.vector_norm(dense, dtype=number)) ** 2 / dense.numel()
    std = math.sqrt(max(square - mean * mean, 0.0)) if math.isfinite(square) else math.nan
    equal = None
    if dense.dim() > 1 and dense.shape[0] > 1:
        rows = dense.flatten(1)
        # three rows tell a constant or mirrored initialisation from a random one
        equal = bool((rows[1:3] == rows[:1]).all())
    return {"initial_mean": mean, "initial_std": std, "equal_rows": equal}


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
