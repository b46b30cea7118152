"""The words and fixed sizes of the schema: states, roles, activations, limits, run facts."""

from __future__ import annotations

from enum import IntEnum

SCHEMA_VERSION = 1


class State(IntEnum):
    """What a parameter's gradient was when the optimizer was about to use it."""

    FINITE = 0
    NONE = 1
    """requires grad, but ``.grad`` is None."""
    EXACT_ZERO = 2
    """every element is exactly 0 (from the exact sum of squares and maximum)."""
    FROZEN = 3
    """``requires_grad`` is False."""
    NON_FINITE = 4
    """at least one NaN or Inf."""


class Role(IntEnum):
    """Which tensor of a module an ``activations`` row describes."""

    INPUT = 0
    OUTPUT = 1
    GRAD_INPUT = 2
    """gradient of the loss with respect to an input tensor."""
    GRAD_OUTPUT = 3
    """gradient of the loss with respect to an output tensor."""


class Activation(IntEnum):
    """Kind of a pointwise activation; decides what *active* and *saturated* mean."""

    UNKNOWN = 0
    RELU = 1
    """relu, threshold."""
    SIGMOID = 2
    TANH = 3
    GELU = 4
    SILU = 5
    """silu, swish, mish, hardswish."""
    ELU = 6
    """elu, selu, celu."""
    HARD = 7
    """hardtanh, hardsigmoid, relu6: flat outside their range."""
    SOFTPLUS = 8
    LEAKY = 9
    """leaky_relu, prelu, rrelu: never flat."""


EXPONENT_EDGES: tuple[int, ...] = (-126, *range(-64, 17, 2))
"""Edges of the binary-exponent histogram of ``floor(log2|x|)``, non-zero finite elements only.

Bin 0 is everything below 2**-126 (subnormal in float32 and bfloat16), bin 1 is [-126, -64), then
steps of two, and the last bin is everything from 2**16 up (above the largest float16, 65,504, or
next to it). -24 and -14, the limits of subnormal and normal float16, are edges.
"""
EXPONENT_BINS = len(EXPONENT_EDGES) + 1
SKETCH_SIZE = 64
"""Numbers in the count sketch (random signs, fixed buckets) of a gradient or an update."""
SAMPLE_SIZE = 1_000
"""Elements in the fixed strided sample for zero counts and exponent histograms."""
UPDATE_SAMPLE_SIZE = 4_096
"""Elements looked at for update statistics; a tensor no larger than this is looked at whole."""
UNITS_LIMIT = 4_096
"""Units of one module looked at for unit states; beyond it a fixed stride is used."""

RUN_KEYS: dict[str, str] = {
    "schema_version": "version of this schema",
    "version": "gradscope's version",
    "torch": "torch's version",
    "python": "Python's version",
    "command": "check | watch | run | gradcheck | trace",
    "target": "what was watched: the file or the root's class, as shown to the user",
    "model": "class name of the root module",
    "started": "UTC time, ISO 8601",
    "finished": "UTC time, ISO 8601; absent while running and after a kill",
    "pid": "process id",
    "rank": "rank in torch.distributed, or 0",
    "world_size": "number of ranks, or 1",
    "device": "device of the parameters",
    "dtype": "dtype of most parameter elements",
    "amp": "autocast dtype seen, or null",
    "seed": "seed that gradscope set, or null",
    "batch": "length of axis 0 of the root's first input",
    "optimizers": "[{type, lr: [per group], parameters, defaults}]",
    "assumptions": "sentences about what check() inferred",
    "limits": "sentences about what could not be observed",
    "interrupted": "why the run ended early, e.g. 'interrupted at step 17'; absent otherwise",
    "failed": "what stopped the user's code, e.g. 'the forward pass failed at step 17: …'; "
    "or absent",
    "exit_code": "exit code of the script that `run` ran; absent for other commands, and while it "
    "runs",
    "first_step": "number of the first step",
    "settings": "the settings in force",
}
