"""Modules by which a model is entered whose own forward is not what trains it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
"""They are never called themselves."""


def entries(root: nn.Module) -> Iterator[nn.Module]:
    """The modules that the ``training_step`` of ``root`` calls, as in a LightningModule.

    A framework calls ``training_step`` and no forward of the root, so the outermost forwards are
    those of its children. Of the children those count that have parameters: a criterion or a metric
    is no model.
    """
    if callable(getattr(root, "training_step", None)):
        yield from _below(root)


def _below(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            yield from _below(child)
        elif next(child.parameters(), None) is not None:
            yield child
