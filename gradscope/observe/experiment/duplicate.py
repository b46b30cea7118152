"""A copy of a model to experiment on, in double precision where asked.

``copy.deepcopy`` alone is not enough: it refuses tensors that are part of a graph and objects that
cannot be pickled, and forgets the hooks of parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.observe.experiment.probes import wide
from gradscope.observe.naming import unregistered
from gradscope.observe.reading.nested import tensors

_ATTEMPTS = 20


def duplicate(root: nn.Module) -> nn.Module:
    """A deep copy of ``root`` with everything that its backward pass depends on.

    Objects that cannot be copied (locks, files, sockets) are shared with the original.

    Raises:
        Exception: whatever ``copy.deepcopy`` raises when no such object is to blame.
    """
    memo: dict[int, Any] = {}
    for module in root.modules():
        for _, tensor in tensors(_attributes(module)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    shared: dict[int, Any] = {}
    for _ in range(_ATTEMPTS):
        try:
            other: nn.Module = copy.deepcopy(root, {**memo, **shared})
            break
        except Exception:
            blamed = [t for t in _things(root) if id(t) not in shared and not _copies(t, memo)]
            if not blamed:
                raise
            shared |= {id(thing): thing for thing in blamed}
    else:
        raise RuntimeError("the model cannot be copied")
    _copy_hooks(root, other)
    return other


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Leaves that require grad and that ``module`` itself holds, registered or not, with names."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad and not is_lazy(parameter):
            yield name, parameter
    for name, thing in vars(module).items():
        if isinstance(thing, Tensor) and thing.requires_grad and thing.is_leaf:
            yield name, thing
    for name, thing in unregistered(module):
        if isinstance(thing, Tensor):
            yield name, thing


def below(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` and all modules that it holds, registered or in plain lists and dicts."""
    seen: set[int] = set()
    pending = [module]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += [child for child in one._modules.values() if child is not None]
        pending += [thing for _, thing in unregistered(one) if isinstance(thing, nn.Module)]


@torch.no_grad()
def widen(root: nn.Module) -> None:
    """Turn every floating and complex tensor of a model into double precision, in place."""
    seen: set[int] = set()
    for module in below(root):
        if isinstance(module, torch.jit.ScriptModule):
            module.double()
            continue
        for _, tensor in tensors([module._parameters, module._buffers, _attributes(module)]):
            if id(tensor) in seen or tensor.is_meta or is_lazy(tensor):
                continue
            seen.add(id(tensor))
            if wide(tensor.dtype) != tensor.dtype:
                tensor.data = tensor.data.to(wide(tensor.dtype))


def hold_still(root: nn.Module) -> None:
    """Switch off what PyTorch's own modules do to weights and gradients beside their function.

    The power iteration of a spectral norm and the renormalisation of an embedding are no part of
    the function that the backward pass differentiates: they are constants of the step. That a row
    for padding gets no gradient, and frequent rows less, is meant so.
    """
    for module in below(root):
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.max_norm, module.scale_grad_by_freq = None, False
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
        if type(module).__name__ == "_SpectralNorm" and type(module).__module__.startswith("torch"):
            module.eval()
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__ == "torch.nn.utils.spectral_norm":
                hook.n_power_iterations = 0  # type: ignore[attr-defined]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in _INTERNAL}


_INTERNAL = frozenset(vars(nn.Module()))


def _things(root: nn.Module) -> Iterator[Any]:
    """Objects that attributes of modules hold, outermost first."""
    for module in root.modules():
        for value in _attributes(module).values():
            yield value
            if isinstance(value, (list, tuple)):
                yield from value
            elif isinstance(value, dict):
                yield from value.values()
            elif hasattr(value, "__dict__"):
                yield from list(vars(value).values())


def _copies(thing: Any, memo: dict[int, Any]) -> bool:
    if isinstance(thing, nn.Module):
        return True
    try:
        copy.deepcopy(thing, dict(memo))
    except Exception:
        return False
    return True


def _copy_hooks(one: nn.Module, two: nn.Module) -> None:
    """Give the copy's parameters the hooks of the original's: deepcopy leaves them out."""
    for module, other in zip(below(one), below(two), strict=False):
        for (_, parameter), (_, copied) in zip(
            own_parameters(module), own_parameters(other), strict=False
        ):
            present = getattr(copied, "_backward_hooks", None)
            for hook in (getattr(parameter, "_backward_hooks", None) or {}).values():
                if not present:
                    copied.register_hook(hook)
