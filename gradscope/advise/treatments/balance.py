"""Several terms of one loss whose gradients are brought to one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from gradscope.advise.treatments.places import is_at
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.frames import Site


class WeightTerm(Intervention):
    """One term of the loss is multiplied where it is computed."""

    rescales_loss = True

    def __init__(self, file: str, lines: Iterable[int], operation: str, factor: float) -> None:
        super().__init__()
        self.file, self.lines, self.operation = file, tuple(sorted(set(lines))), operation
        self.factor = factor
        self.operations = frozenset({operation})  # type: ignore[misc]

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """See ``Intervention``."""
        if not is_at(site, self.file, self.lines):
            return NotImplemented
        result = function(*args, **kwargs)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return NotImplemented
        self.applied = True
        return result * self.factor
