"""What is compared beside the first derivative in double precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.autograd import Function

from gradscope.finite_difference.checking import Effort
from gradscope.finite_difference.forward_mode import any_defined, forward_outcomes
from gradscope.finite_difference.options import Options
from gradscope.finite_difference.outcome import Outcome
from gradscope.finite_difference.own_format import precision_outcomes
from gradscope.finite_difference.planning import suspect
from gradscope.finite_difference.preparation import Prepared
from gradscope.finite_difference.second_order import second_outcomes
from gradscope.finite_difference.unit import Unit
from gradscope.observe.capture import Call, named
from gradscope.observe.experiment.duplicate import duplicate, hold_still


@dataclass
class Extras:
    """The further comparisons of one model, made where the first derivative of a call is right."""

    root: nn.Module
    ready: Prepared
    options: Options
    _narrow: dict[str, nn.Module] | None = None
    _forward_mode: bool = field(default_factory=any_defined)
    _known: set[type[Function]] = field(default_factory=set)

    def outcomes(self, unit: Unit, call: Call, effort: Effort) -> list[Outcome]:
        """Outcomes that are not right, of all further comparisons of one call."""
        found: list[Outcome] = []
        if self._forward_mode:
            found += forward_outcomes(unit, self.options.seed, self._known)
        if self.options.second_order:
            found += second_outcomes(unit, self.options.seed, effort)
        if self._in_single(call, unit):
            module = self._narrow_modules().get(call.name)
            if module is not None:
                found += _quietly(unit, module, call.direct, self.options.seed)
        return found

    def _in_single(self, call: Call, unit: Unit) -> bool:
        if not self.options.precision or unit.epsilon > 1e-12 or unit.told:
            return False
        return suspect(call.module) or not call.children

    def _narrow_modules(self) -> dict[str, nn.Module]:
        if self._narrow is None:
            if any(p.dtype == torch.float64 for p in self.root.parameters()):
                self._narrow = {}
            else:
                model = duplicate(self.root)
                hold_still(model)
                self._narrow = {name: module for module, name in named(model).items()}
        return self._narrow


def _quietly(unit: Unit, module: nn.Module, direct: bool, seed: int) -> list[Outcome]:
    try:
        return precision_outcomes(unit, module, direct, seed)
    except Exception:  # it ran in single precision as a part of the model; alone it need not
        return []
