"""Objects to ids: every module and parameter below the watched roots, shared ones once.

Ids are given in the order in which objects are met and are never re-used; objects are held weakly
and known by identity, since ``id()`` of a dead object comes back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.observe import private

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")


def _nothing() -> None:
    """A weak reference to what is gone."""


class IdMap:
    """Ids of objects that are compared by identity and held weakly."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._things: dict[int, Callable[[], Any]] = {}
        self._lost: list[tuple[Any, int]] = []

    def get(self, thing: Any) -> int | None:
        """The id of ``thing``, None if it was never added."""
        entry = self._known.get(id(thing))
        return entry[1] if entry is not None and entry[0]() is thing else None

    def add(self, thing: Any) -> int:
        """The id of ``thing``, a new one if it is not known."""
        known = self.get(thing)
        if known is not None:
            return known
        identity = len(self._things)
        self._keep(thing, identity)
        return identity

    def _keep(self, thing: Any, identity: int) -> None:
        reference = weakref.ref(thing)
        self._known[id(thing)], self._things[identity] = (reference, identity), reference

    def thing(self, identity: int) -> Any:
        """The object with this id, None when it is gone."""
        return self._things[identity]()

    def let_go(self, things: Iterable[Any]) -> None:
        """Hold ``things`` without a weak reference until ``take_back``."""
        for thing in things:
            identity = self.get(thing)
            if identity is not None:
                self._lost.append((thing, identity))
                del self._known[id(thing)]
                self._things[identity] = _nothing

    def take_back(self) -> None:
        """Hold what ``let_go`` was given weakly again, under the ids it had."""
        for thing, identity in self._lost:
            self._keep(thing, identity)
        self._lost = []

    def living(self) -> Iterator[tuple[int, Any]]:
        """Id and object of everything that still lives."""
        for reference, identity in list(self._known.values()):
            thing = reference()
            if thing is not None:
                yield identity, thing


@dataclass
class Place:
    """Where an object stands: below which root, under which names, in which module."""

    identity: int
    root: int
    path: str
    owner: int = -1
    registered: bool = True
    compiled: bool = False
    """Its calls run code of torch.compile or TorchScript, in which no hook must be placed."""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """All modules and parameters of all roots, each once, with its places."""

    modules: dict[int, Place]
    parameters: dict[int, Place]


class Registry:
    """The known modules and parameters of the watched roots."""

    def __init__(self, roots: Sequence[nn.Module]) -> None:
        self.modules = IdMap()
        self.parameters = IdMap()
        self._roots = [weakref.ref(unwrap(root)) for root in roots]
        self._sharded: dict[tuple[int, str], int] = {}
        """Id of the sharded parameter that a module owns under a name."""
        self._wrappers: dict[int, tuple[weakref.ref[nn.Module], weakref.ref[nn.Module]]] = {}
        for root in roots:
            self._note_wrapper(root)

    def _identity(self, parameter: Tensor, owner: int, name: str) -> int:
        # FSDP2 puts the gathered parameter in the sharded one's place for a while
        known = self._sharded.get((owner, name))
        if hasattr(parameter, "device_mesh"):
            known = self._sharded[owner, name] = self.parameters.add(parameter)
        elif known is None or self.parameters.thing(known) is None:
            known = self.parameters.add(parameter)
        return known

    def add(self, root: nn.Module) -> None:
        """Watch one more root; one that is known stays where it is."""
        inner = unwrap(root)
        if not any(known is inner for known in self.roots):
            self._roots.append(weakref.ref(inner))
        self._note_wrapper(root)

    @property
    def roots(self) -> list[nn.Module]:
        """The root modules that still live, wrappers of parallel training taken off."""
        return [root for reference in self._roots if (root := reference()) is not None]

    def _note_wrapper(self, module: nn.Module) -> bool:
        """Remember a wrapper of ``torch.compile`` around a module, maybe inside other wrappers."""
        inner = unwrap(module)
        while module is not inner and not private.is_compile_wrapper(module):
            module = next(iter(module.children()))
        if module is not inner:
            self._wrappers[id(module)] = weakref.ref(module), weakref.ref(inner)
        return module is not inner

    def wrappers(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each living wrapper of ``torch.compile`` and the module inside."""
        return [
            (wrapper, inner)
            for one, other in self._wrappers.values()
            if (wrapper := one()) is not None and (inner := other()) is not None
        ]

    def compiled_by(self, wrapper: nn.Module) -> bool:
        """Learn of a wrapper made just now; whether the module inside is known."""
        known = self.modules.get(unwrap(wrapper)) is not None
        return known and self._note_wrapper(wrapper)

    def structure(self) -> tuple[int, ...]:
        """Changes when modules or parameters come, go or are replaced below a root."""
        found: list[int] = []
        for root in self.roots:
            for module in root.modules():
                found.append(id(module))
                found.extend(map(id, module._parameters.values()))
        return tuple(found)

    def walk(self) -> Tree:
        """Look at every root anew; ids of what is known stay."""
        modules: dict[int, Place] = {}
        parameters: dict[int, Place] = {}
        for root in self.roots:
            compiled = any(inner is root for _, inner in self.wrappers())
            place = Place(self.modules.add(root), self.modules.add(root), "", compiled=compiled)
            self._walk(root, place, modules, parameters)
        return Tree(modules, parameters)

    def _walk(
        self,
        module: nn.Module,
        place: Place,
        modules: dict[int, Place],
        parameters: dict[int, Place],
    ) -> None:
        if private.is_compiled(module) or isinstance(module, torch.jit.ScriptModule):
            place.compiled = True
        if any(inner is module for _, inner in self.wrappers()):
            place.compiled = True  # the wrapper may not have been put in its place yet
        if self._note_wrapper(module):
            # the module inside has this name, and the wrapper none
            module = unwrap(module)
            place.identity = self.modules.add(module)
        if not _note(modules, place):
            return
        root, owner = place.root, place.identity
        for name, parameter in module._parameters.items():
            if parameter is not None and not is_lazy(parameter):
                path = _join(place.path, name)
                identity = self._identity(parameter, owner, name)
                _note(parameters, Place(identity, root, path, owner, place.registered))
        for name, child in module._modules.items():
            if child is not None:
                path = place.path if name in _WRAPPERS else _join(place.path, name)
                self._walk(child, self._below(child, place, path), modules, parameters)
        for name, thing in unregistered(module):
            path = _join(place.path, name)
            if isinstance(thing, nn.Module):
                below = self._below(thing, place, path)
                below.registered = False
                self._walk(thing, below, modules, parameters)
            else:
                identity = self.parameters.add(thing)
                _note(parameters, Place(identity, root, path, owner, registered=False))

    def _below(self, module: nn.Module, above: Place, path: str) -> Place:
        return Place(
            self.modules.add(module),
            above.root,
            path,
            above.identity,
            above.registered,
            above.compiled,
        )


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside wrappers of parallel training and compilation."""
    while not isinstance(module, torch.jit.ScriptModule):
        if (
            type(module).__name__ in _PARALLEL
            and isinstance(inner := getattr(module, "module", None), nn.Module)
        ) or isinstance(inner := module._modules.get("_orig_mod"), nn.Module):
            module = inner
        else:
            break
    return module


def _note(places: dict[int, Place], place: Place) -> bool:
    """Add a place; a second one becomes an alias of the first. True if it is the first."""
    first = places.get(place.identity)
    if first is None:
        places[place.identity] = place
        return True
    if place.path != first.path or place.root != first.root:
        if place.registered and not first.registered:
            first.registered = True
        first.aliases.append(place.path)
    return False


def unregistered(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules and parameters in plain lists, tuples and dicts that are attributes of ``module``."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") and name in _INTERNAL:
            continue
        if isinstance(value, (list, tuple)):
            items: Iterator[tuple[Any, Any]] = iter(enumerate(value))
        elif isinstance(value, dict):
            items = iter(list(value.items()))
        else:
            continue
        for key, thing in items:
            if isinstance(thing, nn.Module) or (
                isinstance(thing, Tensor) and thing.is_leaf and thing.requires_grad
            ):
                yield f"{name}.{key}", thing


_INTERNAL = frozenset(vars(nn.Module()))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
