"""The rules, one failure a file, its page beside it.

A new rule is one new file, its page, its test and one line in ``RULES``.
"""

from __future__ import annotations

from gradscope.diagnose.rule import Rule
from gradscope.rules.clipping_binds_always import ClippingBindsAlways
from gradscope.rules.collapsed_representation import CollapsedRepresentation
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.gradient_imbalance import GradientImbalance
from gradscope.rules.gradient_not_cleared import GradientNotCleared
from gradscope.rules.gradient_spike import GradientSpike
from gradscope.rules.learning_rate_too_high import LearningRateTooHigh
from gradscope.rules.learning_rate_too_low import LearningRateTooLow
from gradscope.rules.loss_not_decreasing import LossNotDecreasing
from gradscope.rules.no_gradient import NoGradient
from gradscope.rules.noisy_gradient import NoisyGradient
from gradscope.rules.non_finite import NonFinite
from gradscope.rules.not_in_optimizer import NotInOptimizer
from gradscope.rules.poor_initialization import PoorInitialization
from gradscope.rules.precision_underflow import PrecisionUnderflow
from gradscope.rules.ranks_disagree import RanksDisagree
from gradscope.rules.saturated_activation import SaturatedActivation
from gradscope.rules.stagnant_update import StagnantUpdate
from gradscope.rules.stale_gradient import StaleGradient
from gradscope.rules.unscaled_input import UnscaledInput
from gradscope.rules.vanishing_gradient import VanishingGradient
from gradscope.rules.wrong_backward import WrongBackward
from gradscope.rules.wrong_loss_input import WrongLossInput

RULES: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    GradientSpike,
    NoGradient,
    NoisyGradient,
    GradientImbalance,
    NonFinite,
    PrecisionUnderflow,
    StagnantUpdate,
    DeadUnits,
    SaturatedActivation,
    CollapsedRepresentation,
    LearningRateTooHigh,
    LearningRateTooLow,
    NotInOptimizer,
    PoorInitialization,
    GradientNotCleared,
    ClippingBindsAlways,
    WrongLossInput,
    UnscaledInput,
    LossNotDecreasing,
    StaleGradient,
    WrongBackward,
    RanksDisagree,
)
"""gradscope's own rules, by code."""
