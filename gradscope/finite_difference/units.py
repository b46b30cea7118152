"""From recorded calls to units: which tensors of a call are its leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.finite_difference.preparation import Drive, Prepared, change_of
from gradscope.finite_difference.unit import Beginning, Leaf, Unit, input_leaf
from gradscope.observe.capture import Call
from gradscope.observe.experiment.duplicate import below, own_parameters
from gradscope.observe.reading.nested import differentiable, tensors

LOSS = "loss"
"""The name under which what stands behind the model, the loss, is reported."""


def unit_of(
    call: Call, ready: Prepared, replaced: Sequence[nn.Module], told: tuple[Beginning, ...]
) -> Unit:
    """A recorded call as a unit; parameters below ``replaced`` modules are no leaves of it."""
    module = call.module
    leaves, by_path = _inputs(call, ready)
    called = {c.module for c in ready.calls}
    gone = {id(m) for top in replaced for m in below(top)}
    seen: set[int] = set()
    own_modules = {id(m) for m in _uncalled(module, called)}
    for owner in below(module):
        if id(owner) in gone:
            continue
        own = id(owner) in own_modules
        for name, parameter in own_parameters(owner):
            if id(parameter) in seen or not parameter.numel() or not differentiable(parameter):
                continue
            seen.add(id(parameter))
            path = _relative(ready, module, owner, name)
            leaves.append(Leaf(path, parameter.detach().clone(), parameter, own=own))
    return Unit(
        call.name, module.forward if call.direct else module, call.args, call.kwargs, leaves,
        call.state or ready.state, epsilon=ready.epsilon, widened=ready.widened, told=told,
        by_path=by_path,
    )  # fmt: skip


def loss_unit(
    ready: Prepared, drive: Drive, replaced: Sequence[nn.Module], told: tuple[Beginning, ...]
) -> Unit | None:
    """The whole pass, loss and all, as a function of the parameters; None if there are none."""
    gone = {id(m) for top in replaced for m in below(top)}
    leaves: list[Leaf] = []
    for module, name in ready.names.items():
        for own, parameter in own_parameters(module):
            if id(module) not in gone and parameter.numel() and differentiable(parameter):
                path = f"{name}.{own}" if name else own
                leaves.append(Leaf(path, parameter.detach().clone(), parameter))
    if not leaves:
        return None
    change = change_of(ready)

    def call() -> Any:
        return drive(ready.model, change)

    return Unit(
        LOSS, call, (), {}, leaves, ready.state, epsilon=ready.epsilon, widened=ready.widened,
        told=told,
    )  # fmt: skip


def _uncalled(module: nn.Module, called: set[nn.Module]) -> Iterator[nn.Module]:
    """``module`` and what it holds and never calls, such as a projection whose weight it reads."""
    pending = [module]
    while pending:
        one = pending.pop()
        yield one
        children = [m for m in below(one) if m is not one]
        inner = {id(x) for child in children for x in below(child) if x is not child}
        pending += [m for m in children if id(m) not in inner and m not in called]


def _inputs(call: Call, ready: Prepared) -> tuple[list[Leaf], dict[str, Leaf]]:
    asked = ready.asked.get((call.name, call.index, call.recomputed), frozenset())
    parameters = {id(p) for m in below(call.module) for _, p in own_parameters(m)}
    leaves: list[Leaf] = []
    by_tensor: dict[int, Leaf] = {}
    by_path: dict[str, Leaf] = {}
    for path, tensor in _wanted(call):
        if id(tensor) in parameters:
            continue
        leaf = by_tensor.get(id(tensor))
        if leaf is None:
            leaf = input_leaf(_name(path), tensor, asked=path in asked)
            by_tensor[id(tensor)] = leaf
            leaves.append(leaf)
        by_path[path] = leaf
    return leaves, by_path


def _wanted(call: Call) -> Iterator[tuple[str, Tensor]]:
    for path, tensor in tensors((call.args, call.kwargs)):
        if path in call.wanted and differentiable(tensor) and tensor.numel():
            yield path, tensor


def _name(path: str) -> str:
    """``0.1.2`` is element 2 of the second argument: ``input 1.2``."""
    return f"input {path.partition('.')[2]}"


def _relative(ready: Prepared, module: nn.Module, owner: nn.Module, name: str) -> str:
    if owner is module:
        return name
    above, below_it = ready.names[module], ready.names.get(owner, type(owner).__name__)
    inner = below_it[len(above) + 1 :] if above and below_it.startswith(f"{above}.") else below_it
    return f"{inner}.{name}" if inner else name
