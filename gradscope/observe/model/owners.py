"""Which modules hold given parameters: the roots of what is trained."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence, Set

from torch import Tensor, nn

from gradscope.observe.model.construction import living_modules
from gradscope.observe.model.labels import held_by_variables
from gradscope.observe.naming import unregistered, unwrap


def roots_of(
    wanted: Set[int], known: Iterable[nn.Module] = (), *, everywhere: bool = False
) -> list[nn.Module]:
    """The outermost modules below which the wanted parameters stand.

    A module around them that adds no parameter, such as one that computes the loss, is passed over
    where the user's code has a variable for the module inside.

    Args:
        wanted: ``id`` of each parameter.
        known: modules that are looked at in any case.
        everywhere: search all objects of the process for what was not seen while it was built.

    Returns:
        the roots in the order in which they were built. What stands in none of them is in no
        module.
    """
    modules = _distinct([*known, *living_modules()])
    roots = _outermost(modules, wanted)
    if everywhere and wanted - _below(roots):
        # built while nobody looked: read from a file, or by a library's own means
        everything = [o for o in gc.get_objects() if issubclass(type(o), nn.Module)]
        roots = _outermost(_distinct([*modules, *everything]), wanted)
    return _distinct(_meant(root) for root in roots)


def parameters_below(modules: Iterable[nn.Module]) -> set[int]:
    """``id`` of every parameter below ``modules``, those in plain lists and dicts too."""
    return _below(modules)


def _outermost(modules: Sequence[nn.Module], wanted: Set[int]) -> list[nn.Module]:
    inner = {id(child) for module in modules for child in _children(module) if child is not module}
    roots = [
        module
        for module in modules
        if id(module) not in inner and not wanted.isdisjoint(_below([module]))
    ]
    missing = wanted - _below(roots)
    if missing:
        # modules that hold each other have no outermost one: take those that own the parameters
        roots += [m for m in modules if not missing.isdisjoint(_own(m))]
    return roots


def _meant(root: nn.Module) -> nn.Module:
    whole = _below([root])
    inside = [m for m in _descendants(root) if m is not root and _below([m]) == whole]
    named = held_by_variables({id(module) for module in inside}, plain=True)
    within = next((module for module in inside if id(module) in named), None)
    if within is None or unwrap(root) is not root:
        return root  # a wrapper of parallel training or compilation is taken off later
    return within


def _below(modules: Iterable[nn.Module]) -> set[int]:
    return {p for top in modules for module in _descendants(top) for p in _own(module)}


def _descendants(module: nn.Module) -> Iterator[nn.Module]:
    pending, seen = [module], {id(module)}
    while pending:
        at = pending.pop(0)
        yield at
        for child in _children(at):
            if id(child) not in seen:
                seen.add(id(child))
                pending.append(child)


def _children(module: nn.Module) -> Iterator[nn.Module]:
    for child in module._modules.values():
        if child is not None:
            yield child
    for _, thing in unregistered(module):
        if isinstance(thing, nn.Module):
            yield thing


def _own(module: nn.Module) -> Iterator[int]:
    for parameter in module._parameters.values():
        if parameter is not None:
            yield id(parameter)
    for _, thing in unregistered(module):
        if isinstance(thing, Tensor):
            yield id(thing)


def _distinct(modules: Iterable[nn.Module]) -> list[nn.Module]:
    # a module may define __eq__ and have no hash
    return list({id(module): module for module in modules if "_modules" in vars(module)}.values())
