"""Names of module calls, as a reader knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gradscope.observe.autograd.step_graph import ForwardWatch

_ORDINALS = ("1st", "2nd", "3rd")


class HasCall(Protocol):
    """Something that belongs to a module call."""

    @property
    def call(self) -> int:
        """Index of the call; -1: none."""


def call_name(watch: ForwardWatch, index: int) -> str:
    """A call's module, with which call it is where there are several."""
    call = watch.calls[index]
    name = call.name or "the model"
    several = sum(other.module is call.module for other in watch.calls) > 1
    return f"{name} ({ordinal(call.nth + 1)} call)" if several else name


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``4th`` …, ``21st``."""
    last, teens = number % 10, number % 100 in (11, 12, 13)
    return _ORDINALS[last - 1] if 1 <= last <= 3 and not teens else f"{number}th"


def ancestors(watch: ForwardWatch, index: int) -> list[int]:
    """A call and those around it, innermost first."""
    found = []
    while index >= 0:
        found.append(index)
        index = watch.calls[index].parent
    return found


def common(indices: Sequence[int], watch: ForwardWatch) -> int:
    """The innermost call that holds all of some calls; -1 where there is none."""
    if not indices:
        return -1
    shared = ancestors(watch, indices[0])
    for index in indices[1:]:
        around = set(ancestors(watch, index))
        shared = [each for each in shared if each in around]
    return shared[0] if shared else -1


def neighbour(links: Sequence[HasCall], around: int, watch: ForwardWatch) -> str:
    """Name of the first module called directly by ``around`` among links; "" for none."""
    for link in links:
        for index in ancestors(watch, link.call):
            if watch.calls[index].parent == around:
                return call_name(watch, index)
    return ""
