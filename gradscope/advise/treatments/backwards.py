"""Changes of the backward pass of a custom ``torch.autograd.Function``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.observe.experiment.intervention import Intervention


class ScaleBackward(Intervention):
    """What a function's ``backward`` gives is multiplied by the factor that it lacks.

    The class is changed, not an object of it: ``apply`` makes a new one for each call. Only the
    child process of the trial sees it.

    Args:
        file: where the class stands; the name of the file alone counts, a trial may run a copy.
        function: name of the class.
        factor: see above.
    """

    def __init__(self, file: str, function: str, factor: float) -> None:
        super().__init__()
        self.file, self.function, self.factor = file, function, factor

    def model(self, root: nn.Module) -> None:
        """Wrap ``backward`` in each class of that name."""
        for kind in _functions(torch.autograd.Function):
            if kind.__name__ == self.function and _stands_in(kind, self.file):
                name = next((n for n in ("backward", "vjp") if n in vars(kind)), None)
                if name is not None:
                    original = getattr(kind, name)
                    setattr(kind, name, staticmethod(functools.partial(self._scaled, original)))

    def _scaled(self, original: Any, *args: Any) -> Any:
        self.applied = True
        given = original(*args)
        if isinstance(given, Tensor):
            return given * self.factor
        if not isinstance(given, tuple):
            return given
        return tuple(g * self.factor if isinstance(g, Tensor) else g for g in given)


def _functions(kind: type[Any]) -> Iterator[type[Any]]:
    for below in kind.__subclasses__():
        yield below
        yield from _functions(below)


def _stands_in(kind: type[Any], file: str) -> bool:
    module = sys.modules.get(kind.__module__)
    own = getattr(module, "__file__", None)
    return own is not None and Path(own).name == Path(file).name
