"""Finding the model in the user's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss

from gradscope.errors import LoadError
from gradscope.observe.model.construction import ConstructionTrace
from gradscope.running.failures import user_code
from gradscope.running.objects import Names, call_without_arguments, required, where

BUILDERS = ("build_model", "make_model", "get_model")
LOSS_NAMES = ("loss", "loss_fn", "criterion")


def find_model(names: Names, asked: str | None) -> tuple[nn.Module, str, str]:
    """The model, the name of its variable or class, and a phrase that says what was taken.

    Taken is, in this order: what was asked for; an ``nn.Module`` instance; the result of
    ``build_model()``, ``make_model()`` or ``get_model()``; an instance of the only ``nn.Module``
    subclass that can be built without arguments.

    Raises:
        LoadError: there is none, there are several, or building it failed.
    """
    if asked is not None:
        return _asked(names, asked)
    instances = _instances(names)
    if len(instances) > 1:
        raise _several(names, sorted(instances), "modules")
    if instances:
        name, model = next(iter(instances.items()))
        return model, name, f"`{name}`"
    for name in BUILDERS:
        builder = names.get(name)
        if callable(builder):
            return _built(builder, name, names), "model", f"`{name}()`"
    return _from_classes(names)


def _asked(names: Names, asked: str) -> tuple[nn.Module, str, str]:
    first, *rest = asked.split(".")
    if first not in names.found:
        there = sorted([*_instances(names), *_classes(names)])
        there += [name for name in BUILDERS if callable(names.get(name))]
        raise LoadError(
            f"there is no {first!r} in {names.origin}",
            hint=f"it has {', '.join(there)}" if there else "it has no model either",
        )
    found = names.found[first]
    for part in rest:
        if not hasattr(found, part):
            raise LoadError(f"{asked!r} has no attribute {part!r}", where=names.origin)
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found, rest[-1] if rest else first, f"`{asked}`"
    if callable(found):
        return _built(found, asked, names), "model", f"`{asked}()`"
    raise LoadError(
        f"{asked!r} is a {type(found).__name__}, not a model",
        where=names.origin,
        hint="name an nn.Module, its class, or a function that returns one",
    )


def _instances(names: Names) -> dict[str, nn.Module]:
    """Modules in the file that are no loss and no part of another one; one name each."""
    found: dict[str, nn.Module] = {}
    for name, thing in names.found.items():
        if not issubclass(type(thing), nn.Module) or name.startswith("__"):
            continue
        # a loss is a module too, but nobody means it by "my model"
        if name in LOSS_NAMES or isinstance(thing, _Loss):
            continue
        if not any(thing is other for other in found.values()):
            found[name] = thing
    inside = {id(part) for module in found.values() for part in list(module.modules())[1:]}
    outer = {name: module for name, module in found.items() if id(module) not in inside}
    # an activation or a Flatten kept beside the model is no second model
    weighty = {n: m for n, m in outer.items() if next(m.parameters(), None) is not None}
    return weighty or outer


def _classes(names: Names) -> dict[str, type[nn.Module]]:
    return {
        name: thing
        for name, thing in names.found.items()
        if inspect.isclass(thing)
        and issubclass(thing, nn.Module)
        and not issubclass(thing, _Loss)
        and thing.__module__ == names.module
        and thing.__name__ == name
    }


def _from_classes(names: Names) -> tuple[nn.Module, str, str]:
    classes = _classes(names)
    if not classes:
        raise LoadError(
            f"no model found in {names.origin}",
            hint="it needs an nn.Module such as `model = Net()`, a function build_model(), or a "
            "subclass of nn.Module that can be built without arguments",
        )
    buildable = {name: cls for name, cls in classes.items() if not required(cls)}
    if not buildable:
        name, cls = list(classes.items())[-1]
        raise LoadError(
            f"{name} cannot be built without arguments: it needs {', '.join(required(cls))}",
            where=where(cls, names),
            hint=f"add `model = {name}(…)` to {names.origin}, or a function build_model()",
        )
    outer = _outermost(buildable, classes)
    if len(outer) > 1:
        raise _several(names, sorted(outer), "subclasses of nn.Module")
    name, cls = next(iter(outer.items()))
    if len(buildable) > 1:
        names.assume(f"`{name}` is the model: the other modules of {names.origin} are its parts.")
    return _built(cls, name, names), name, f"`{name}()`"


def _outermost(
    buildable: dict[str, type[nn.Module]], classes: dict[str, type[nn.Module]]
) -> dict[str, type[nn.Module]]:
    """Classes that no other class of the file uses in its methods or derives from."""
    used: set[str] = set()
    for name, cls in classes.items():
        for member in vars(cls).values():
            code = getattr(member, "__code__", None)
            if code is not None:
                used |= set(_globals_read(code)) - {name}
        used |= {base.__name__ for base in cls.__mro__[1:]}
    outer = {name: cls for name, cls in buildable.items() if name not in used}
    return outer or buildable


def _globals_read(code: Any) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            found |= _globals_read(constant)
    return found


def _built(builder: Callable[..., Any], name: str, names: Names) -> nn.Module:
    if inspect.isclass(builder) and required(builder):
        raise LoadError(
            f"{name} cannot be built without arguments: it needs {', '.join(required(builder))}",
            where=where(builder, names),
            hint=f"add `model = {name}(…)` to {names.origin}, or a function build_model()",
        )
    with user_code(LoadError, f"building the model with {name}()"), ConstructionTrace():
        model = call_without_arguments(builder, name, names)
    if not isinstance(model, nn.Module):
        raise LoadError(
            f"{name}() returned a {type(model).__name__}, not an nn.Module",
            where=where(builder, names),
            hint="return the model itself",
        )
    return model


def _several(names: Names, found: list[str], what: str) -> LoadError:
    return LoadError(
        f"several models in {names.origin}: {', '.join(found)} are {what}",
        where=names.origin,
        hint=f"say which one: {names.origin}:{found[0]}",
    )
