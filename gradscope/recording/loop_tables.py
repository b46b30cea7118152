"""The record tables of the training loop: what happened on each step."""

from __future__ import annotations

from gradscope.recording.schema import Column, Table

_STEP = Column("step", "int", "", "ordinal of the optimizer step, from Scope's first_step")

STEPS = Table(
    "steps",
    rows=False,
    doc="One record a step, on every step; costs no read of a tensor beyond the scalar loss.",
    columns=(
        _STEP,
        Column("time", "float", "s", "seconds since the recording began, at the end of the step"),
        Column("optimizer", "int", "", "ordinal of the optimizer; -1: hand-written update"),
        Column(
            "loss",
            "float",
            "loss",
            "mean over the step's backward calls at the main call site, "
            "unscaled by GradScaler; NaN if it was; null: no scalar was seen",
        ),
        Column("site", "text", "", "file:line of that backward call"),
        Column("backwards", "int", "", "backward calls since the last step (micro-batches)"),
        Column("lr", "json", "", "learning rate of each parameter group"),
        Column("loss_scale", "float", "", "GradScaler's scale; null: none"),
        Column("skipped", "bool", "", "the step was skipped by a loss scaler"),
        Column("clip_limit", "float", "", "max_norm of clip_grad_norm_; null: no clip call"),
        Column("norm_before_clip", "float", "", "total norm as the clip call computed it"),
        Column(
            "norm", "float", "", "total norm of the gradients used; null: not sampled and no clip"
        ),
        Column("parameters_sampled", "bool", "", "gradients and updates were recorded"),
        Column("modules_sampled", "bool", "", "activations and units were recorded"),
        Column("own_seconds", "float", "s", "time that gradscope itself took in this step"),
        Column("step_seconds", "float", "s", "time since the end of the step before"),
    ),
)

EVENTS = Table(
    "events",
    rows=False,
    doc="The ordered calls of the training loop on every step.",
    columns=(
        _STEP,
        Column("order", "int", "", "ordinal within the step, from 0"),
        Column(
            "kind",
            "text",
            "",
            "backward | autograd-grad | unscale | clip | clip-value | step | skip "
            "| zero-grad | optimizer-built",
        ),
        Column("optimizer", "int", "", "ordinal of the optimizer, or null"),
        Column("site", "text", "", "file:line of the user's call"),
        Column("value", "float", "", "backward: loss; clip: total norm; unscale: scale; or null"),
        Column("limit", "float", "", "clip: max_norm or clip_value; or null"),
        Column(
            "detail",
            "json",
            "",
            "kind-specific facts, or null. backward: {left: {optimizer: none | zero | carried}}, "
            "what became of the gradients that the optimizer's (-1: a hand-written) last step "
            "used, where no zero_grad of it was called since; clip: {optimizers: [ordinals]}; "
            "step: {closure: true} or {gradient: none | zero | same}, where the gradients were "
            "cleared after the last backward, never made, or already used by the step before",
        ),
    ),
)

LOSSES = Table(
    "losses",
    rows=False,
    doc="One record for each loss operation found in the graph of a backward call, on steps on "
    "which modules are sampled.",
    columns=(
        _STEP,
        Column("site", "text", "", "file:line of the backward call"),
        Column("term", "int", "", "ordinal of the loss operation behind that call, from 0"),
        Column(
            "module",
            "int",
            "",
            "id of a module whose output is the loss's input (reshapes looked through); -1: not "
            "found; null: not looked for",
        ),
        Column(
            "operation",
            "text",
            "",
            "cross_entropy | nll | mse | bce | bce_with_logits | l1 | "
            "smooth_l1 | huber | kl_div | ctc | other:<node>",
        ),
        Column(
            "value",
            "float",
            "loss",
            "the loss operation's own value, mean over elements, computed "
            "from its saved tensors: free of loss scaling, weights and sums; null: not known",
        ),
        Column(
            "baseline",
            "float",
            "loss",
            "loss of the best constant answer given the targets seen so "
            "far: entropy of the class frequencies, variance of the targets; null: not known",
        ),
        Column("reduction", "text", "", "mean | sum | none | null"),
        Column(
            "input_operation",
            "text",
            "",
            "autograd node that made the loss's input, e.g. SoftmaxBackward0",
        ),
        Column("input_shape", "json", "", "shape of the loss's input"),
        Column("target_shape", "json", "", "shape of the target"),
        Column(
            "element_shape",
            "json",
            "",
            "mse, l1, smooth_l1, huber, bce: shape of the unreduced loss, after broadcasting",
        ),
        Column("classes", "int", "", "number of classes, or null"),
        Column("target_mean", "float", "", "mean of a floating target"),
        Column("target_std", "float", "", "standard deviation of a floating target"),
        Column(
            "share",
            "float",
            "",
            "loss passed to backward / value: the factor around it; null: not known",
        ),
    ),
)

ALARMS = Table(
    "alarms",
    rows=False,
    doc="Facts made by the trip-wire. They are not findings.",
    columns=(
        _STEP,
        Column(
            "kind",
            "text",
            "",
            "loss-nonfinite | gradient-nonfinite | parameter-nonfinite | "
            "activation-nonfinite | loss-jump | norm-jump",
        ),
        Column("value", "float", "", "the value seen"),
        Column("limit", "float", "", "the value it was compared with, or null"),
        Column("parameter", "int", "", "id, or null"),
        Column("module", "int", "", "id, or null"),
        Column(
            "origin",
            "json",
            "",
            "{operation, phase, module (id), file, line, samples, reason, operands, exact} or "
            "null; exact: the line is that of the operation, not that of the backward call",
        ),
        Column(
            "run_up",
            "json",
            "",
            "what the trip-wire saw of up to 64 steps before: [{step, loss, norm (as a clip "
            "computed it), rms: {parameter id: root mean square of at most 64 elements of its "
            "gradient}}]; of a sampled step the whole is in table gradients",
        ),
    ),
)

EXAMINED = Table(
    "examined",
    rows=False,
    doc="What a look at the operations of an early step found.",
    columns=(
        _STEP,
        Column("kind", "text", "", "activation | cut | no-grad | cast | loss"),
        Column("operation", "text", "", "function, e.g. relu, detach, argmax"),
        Column(
            "module", "int", "", "id of the innermost module that was running; -1: outside modules"
        ),
        Column("file", "text", "", "file of the user's line, or null"),
        Column("line", "int", "", "that line, or null"),
        Column("calls", "int", "", "calls in the step"),
        Column(
            "detail",
            "json",
            "",
            "kind-specific facts, or null; a cut: {parameters: [ids behind it]}",
        ),
    ),
)

THROUGH_TIME = Table(
    "through_time",
    rows=False,
    doc="One record for each recurrent module (RNN, LSTM, GRU in one direction), on steps on which "
    "modules are sampled: how much of the gradient is left at each distance in time.",
    columns=(
        _STEP,
        Column("module", "int", "", "id"),
        Column("length", "int", "time steps", "length of the sequence that it was given"),
        Column(
            "bins",
            "json",
            "gradient",
            "[[first, last, rms]], nearest first, at most 8: root mean square of the gradient of "
            "the loss (multiplied by a loss scaler, if there is one) with respect to the module's "
            "input, over the time steps that lie first to last steps before the last one",
        ),
    ),
)
