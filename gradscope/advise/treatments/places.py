"""Which module of a live model a layer of the recording is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gradscope.advise.layers import Layer
from gradscope.advise.source import Source
from gradscope.observe.frames import Site


@dataclass(frozen=True, slots=True)
class Place:
    """A module by the class of its root and its path in it.

    Attributes:
        root: name of the root's class.
        path: attribute names and indices from the root, "" for the root itself.
    """

    root: str
    path: str

    def of(self, root: nn.Module) -> nn.Module | None:
        """The module below ``root``; None if this is another root, or has no such part."""
        if type(root).__name__ != self.root:
            return None
        found: Any = root
        for part in self.path.split(".") if self.path else ():
            found = _part(found, part)
            if found is None:
                return None
        return found if isinstance(found, nn.Module) else None


def place_of(source: Source, layer: Layer) -> Place:
    """Where a layer stands."""
    root = source.layers.by_id.get(layer.root, layer)
    return Place(root.type, layer.path)


def places_of(source: Source, layers: Iterable[Layer]) -> tuple[Place, ...]:
    """Where some layers stand."""
    return tuple(place_of(source, layer) for layer in layers)


def is_at(site: Site | None, file: str | None, lines: Iterable[int]) -> bool:
    """Whether a call was made on one of ``lines`` of a recorded file.

    The name of the file alone counts: a trial may run a copy of its folder.
    """
    return site is not None and file is not None and site.line in lines and (
        Path(site.file).name == Path(file).name
    )  # fmt: skip


def _part(found: Any, part: str) -> Any:
    if isinstance(found, nn.Module):
        inner = found._modules.get(part)
        if inner is not None:
            return inner
    if part.isdigit() and isinstance(found, list | tuple | nn.ModuleList | nn.Sequential):
        return found[int(part)] if int(part) < len(found) else None
    if isinstance(found, dict):
        return found.get(part)
    return getattr(found, part, None)
