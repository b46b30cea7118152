"""Single things that may move between two evaluations, each with a way back.

Every function takes a thing and gives an ``Item``: whether the thing has moved since, how it is put
back, and the item that would be made of it now.
"""

from __future__ import annotations

import copy
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that may move.

    Attributes:
        moved: whether it is another than when the item was made.
        restore: puts it back.
        again: the item of what it is at the time of the call.
    """

    moved: Callable[[], bool]
    restore: Callable[[], None]
    again: Callable[[], Item]


def random_states() -> tuple[Item, ...]:
    """The global random states of torch, ``random`` and numpy."""
    found = [_torch_state(), _python_state(), _numpy_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(_cuda_states())
    return tuple(found)


def _torch_state() -> Item:
    saved = torch.get_rng_state()
    return Item(
        lambda: not torch.equal(saved, torch.get_rng_state()),
        lambda: torch.set_rng_state(saved),
        _torch_state,
    )


def _cuda_states() -> Item:
    saved = torch.cuda.get_rng_state_all()
    return Item(
        lambda: any(
            not torch.equal(a, b)
            for a, b in zip(saved, torch.cuda.get_rng_state_all(), strict=True)
        ),
        lambda: torch.cuda.set_rng_state_all(saved),
        _cuda_states,
    )


def _python_state() -> Item:
    saved = random.getstate()
    return Item(lambda: random.getstate() != saved, lambda: random.setstate(saved), _python_state)


def _numpy_state() -> Item:
    # the legacy generator is what most code draws from
    saved = np.random.get_state(legacy=False)  # noqa: NPY002

    def moved() -> bool:
        return _differ(saved, np.random.get_state(legacy=False))  # noqa: NPY002

    return Item(moved, lambda: np.random.set_state(saved), _numpy_state)  # noqa: NPY002


def generator(value: Any) -> Item | None:
    """A random generator of torch, numpy or ``random``; None for anything else."""
    get: Callable[[], Any]
    put: Any
    if isinstance(value, torch.Generator):
        get, put = value.get_state, value.set_state
    elif isinstance(value, random.Random):
        get, put = value.getstate, value.setstate
    elif isinstance(value, np.random.Generator):
        get = lambda: copy.deepcopy(value.bit_generator.state)  # noqa: E731
        put = lambda state: setattr(value.bit_generator, "state", copy.deepcopy(state))  # noqa: E731
    elif isinstance(value, np.random.RandomState):
        get, put = lambda: value.get_state(legacy=False), value.set_state
    else:
        return None

    def item() -> Item:
        saved = get()

        def restore() -> None:
            put(saved)

        return Item(lambda: _differ(saved, get()), restore, item)

    return item()


def bindings(table: MutableMapping[str, Any], skip: frozenset[str] = frozenset()) -> Item:
    """Which objects stand under the names of ``table``; names in ``skip`` are left alone."""
    saved = {name: value for name, value in table.items() if name not in skip}

    def moved() -> bool:
        now = {name: value for name, value in table.items() if name not in skip}
        return now.keys() != saved.keys() or any(now[k] is not v for k, v in saved.items())

    def restore() -> None:
        for name in [k for k in table if k not in skip and k not in saved]:
            del table[name]
        for name, value in saved.items():
            if name not in table or table[name] is not value:
                table[name] = value

    return Item(moved, restore, lambda: bindings(table, skip))


def tensor(value: Tensor) -> Item | None:
    """The values of a tensor; None for one whose values cannot be read."""
    if value.is_meta or value.layout is not torch.strided or not value.numel():
        return None
    saved = value.detach().clone()

    def moved() -> bool:
        now = value.detach()
        if now.shape != saved.shape or now.dtype != saved.dtype:
            return True
        return not bool(((now == saved) | ((now != now) & (saved != saved))).all())

    def restore() -> None:
        # through .data: it is no operation of the user's, and no graph is to see it
        if value.shape == saved.shape:
            value.data.copy_(saved)
        else:
            value.data = saved.clone()

    item = Item(moved, restore, lambda: tensor(value) or item)
    return item


def array(value: Any) -> Item:
    """The values of a numpy array."""
    saved = value.copy()

    def restore() -> None:
        value[...] = saved

    return Item(lambda: not np.array_equal(value, saved), restore, lambda: array(value))


def container(value: Any) -> Item:
    """Which objects a list, dict, set or deque holds."""
    if isinstance(value, dict):
        return bindings(value)
    saved = list(value)

    def moved() -> bool:
        now = list(value)
        return len(now) != len(saved) or any(a is not b for a, b in zip(now, saved, strict=True))

    def restore() -> None:
        if not moved():
            return
        if isinstance(value, list):
            value[:] = saved
        else:
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(saved)

    return Item(moved, restore, lambda: container(value))


def numbers(owner: Any, table: Mapping[str, Any]) -> Iterator[Item]:
    """Numbers and counting iterators that an object, a class or a file holds under a name."""
    for name, value in list(table.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, itertools.count):
            yield _counter(owner, name)
        elif isinstance(value, (bool, int, float)):
            yield _number(owner, name)


def _number(owner: Any, name: str) -> Item:
    saved = getattr(owner, name, None)
    return Item(
        lambda: getattr(owner, name, None) is not saved,
        lambda: setattr(owner, name, saved),
        lambda: _number(owner, name),
    )


def _counter(owner: Any, name: str) -> Item:
    def copied() -> Any:
        with warnings.catch_warnings():
            # itertools' copies end with Python 3.14; until then a copy is the way to its count
            warnings.simplefilter("ignore", DeprecationWarning)
            return copy.copy(saved)

    saved = getattr(owner, name)
    saved = copied()
    return Item(
        lambda: repr(getattr(owner, name, None)) != repr(saved),
        lambda: setattr(owner, name, copied()),
        lambda: _counter(owner, name),
    )


def _differ(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return not torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() != two.keys() or any(_differ(v, two[k]) for k, v in one.items())
    if isinstance(one, np.ndarray):
        return not np.array_equal(one, two)
    return bool(one != two)
