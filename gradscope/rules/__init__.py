"""The rules, one failure a file, its page beside it.

A new rule is one new file, its page, its test and one line in ``RULES``.
"""

from __future__ import annotations

from gradscope.diagnose.rule import Rule
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.loss_not_decreasing import LossNotDecreasing
from gradscope.rules.no_gradient import NoGradient
from gradscope.rules.non_finite import NonFinite
from gradscope.rules.not_in_optimizer import NotInOptimizer
from gradscope.rules.vanishing_gradient import VanishingGradient

RULES: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    NoGradient,
    NonFinite,
    DeadUnits,
    NotInOptimizer,
    LossNotDecreasing,
)
"""gradscope's own rules, by code."""
