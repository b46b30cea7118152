"""The fixes, one change a file."""

from __future__ import annotations

from gradscope.advise.fix import Remedy
from gradscope.advise.fixes.add_epsilon import AddEpsilon
from gradscope.advise.fixes.add_to_optimizer import AddToOptimizer
from gradscope.advise.fixes.balance_losses import BalanceLosses
from gradscope.advise.fixes.batch_norm import BatchNorm
from gradscope.advise.fixes.bf16 import Bf16
from gradscope.advise.fixes.clamp import Clamp
from gradscope.advise.fixes.clip_grad_norm import ClipGradNorm
from gradscope.advise.fixes.correct_backward import CorrectBackward
from gradscope.advise.fixes.correct_order import CorrectOrder
from gradscope.advise.fixes.group_norm import GroupNorm
from gradscope.advise.fixes.initialize import Initialize
from gradscope.advise.fixes.keep_graph import KeepGraph
from gradscope.advise.fixes.layer_norm import LayerNorm
from gradscope.advise.fixes.log_softmax import LogSoftmax
from gradscope.advise.fixes.loosen_clipping import LoosenClipping
from gradscope.advise.fixes.loss_scaling import LossScaling
from gradscope.advise.fixes.lower_learning_rate import LowerLearningRate
from gradscope.advise.fixes.lstm_or_gru import LstmOrGru
from gradscope.advise.fixes.mask import Mask
from gradscope.advise.fixes.match_shapes import MatchShapes
from gradscope.advise.fixes.pre_norm import PreNorm
from gradscope.advise.fixes.raise_learning_rate import RaiseLearningRate
from gradscope.advise.fixes.remove_softmax import RemoveSoftmax
from gradscope.advise.fixes.replace_activation import ReplaceActivation
from gradscope.advise.fixes.residual import Residual
from gradscope.advise.fixes.scale_input import ScaleInput
from gradscope.advise.fixes.scale_target import ScaleTarget
from gradscope.advise.fixes.straight_through import StraightThrough
from gradscope.advise.fixes.unfreeze import Unfreeze
from gradscope.advise.fixes.warm_up import WarmUp
from gradscope.advise.fixes.zero_grad import ZeroGrad

FIXES: tuple[type[Remedy], ...] = (
    ReplaceActivation,
    Initialize,
    BatchNorm,
    LayerNorm,
    GroupNorm,
    Residual,
    LowerLearningRate,
    ClipGradNorm,
    AddToOptimizer,
    KeepGraph,
    CorrectBackward,
    StraightThrough,
    Unfreeze,
    LogSoftmax,
    Mask,
    AddEpsilon,
    Clamp,
    ZeroGrad,
    ScaleInput,
    RemoveSoftmax,
    MatchShapes,
    ScaleTarget,
    LoosenClipping,
    RaiseLearningRate,
    CorrectOrder,
    PreNorm,
    LossScaling,
    Bf16,
    BalanceLosses,
    WarmUp,
    LstmOrGru,
)
"""Every fix; of two with the same rank for a finding the earlier one comes first."""
