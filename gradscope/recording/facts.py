"""The schema of a recording: every table, every column, its unit and its shape.

A recording is a set of tables. *Row tables* hold fixed-size numbers and are stored as packed
little-endian rows (one frame on disk holds the rows of one step); *record tables* hold small JSON
objects. Both are listed here and nowhere else: the writer packs what this file says, the reader
makes one pandas frame a table, and a rule names what it needs by ``table`` or ``table.column``.

Objects are identified by small integers (``parameter``, ``module``, ``site``) that the observer
gives in the order in which it meets them. Names are made by the reader at the end, so an object
that is found late renames nothing.

A statistic that was not recorded is absent: a missing row, NaN in a float column, -1 in an integer
column. It is never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

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
    """relu, relu6, leaky_relu (the slope on the left is small), threshold."""
    SIGMOID = 2
    TANH = 3
    GELU = 4
    SILU = 5
    """silu, swish, mish, hardswish."""
    ELU = 6
    """elu, selu, celu."""
    HARD = 7
    """hardtanh, hardsigmoid: flat outside their range."""
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

Kind = Literal["int", "float", "bool", "text", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: the column's name, the same on disk and in pandas.
        dtype: numpy type of a row table's column, or one of ``int float bool text json``.
        unit: unit of the value, "" for a count or a ratio.
        doc: what the number means.
        width: number of values in each row; above 1 the column is not part of the pandas frame
            and is read by ``Recording.vectors(table, column)`` as an array ``[rows, width]``.
    """

    name: str
    dtype: str
    unit: str
    doc: str
    width: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its columns, and whether its rows are packed numbers or JSON records."""

    name: str
    rows: bool
    columns: tuple[Column, ...]
    doc: str
    blob: bool = False
    """Row tables only: each frame carries a byte string after its rows, into which the rows point."""

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The packed little-endian numpy type of one row (row tables only)."""
        fields = [
            (c.name, f"<{c.dtype}", (c.width,)) if c.width > 1 else (c.name, f"<{c.dtype}")
            for c in self.columns
        ]
        return np.dtype(fields)

    def column(self, name: str) -> Column:
        """The column called ``name``; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name!r} has no column {name!r}")


_STEP = Column("step", "i8", "", "ordinal of the optimizer step, from Scope's first_step")
_PARAMETER = Column("parameter", "i4", "", "id of the parameter, see table parameters")
_MODULE = Column("module", "i4", "", "id of the module, see table modules")


def _moments() -> tuple[Column, ...]:
    return (
        Column("count", "i8", "elements", "elements of the tensor (sparse: of its stored values)"),
        Column("sum", "f8", "", "sum of all elements (complex: of |x|)"),
        Column("sum_sq", "f8", "", "sum of squares of all elements: norm = sqrt(sum_sq)"),
        Column("max_abs", "f8", "", "largest |x| (NaN or Inf where the tensor holds one)"),
        Column("nonfinite", "u1", "", "1 if any element is NaN or Inf"),
        Column("looked_at", "i4", "elements", "size of the fixed strided sample; -1: none taken"),
        Column("zeros", "i4", "elements", "exact zeros in the sample; -1: none taken"),
    )


GRADIENTS = Table(
    "gradients",
    rows=True,
    doc="One row for each sampled step and parameter: the gradient that the optimizer is about to "
    "use (accumulated, unscaled, reduced over ranks, after clipping).",
    columns=(
        _STEP,
        _PARAMETER,
        Column("state", "u1", "", "facts.State: finite, none, exact zero, frozen, non-finite"),
        *_moments(),
        Column("nans", "i8", "elements", "NaN elements; -1: not counted (counted on alarm steps)"),
        Column("infs", "i8", "elements", "Inf elements; -1: not counted (counted on alarm steps)"),
        Column(
            "exponents",
            "u2",
            "elements",
            "histogram of the sample by EXPONENT_EDGES",
            EXPONENT_BINS,
        ),
    ),
)

UPDATES = Table(
    "updates",
    rows=True,
    doc="One row for each sampled step and parameter that the optimizer holds: what the step really "
    "did. All sums are over the ``looked_at`` elements of a fixed strided sample (all elements up "
    "to 4,096), so the update ratio is sqrt(delta_sq / before_sq).",
    columns=(
        _STEP,
        _PARAMETER,
        Column("count", "i8", "elements", "elements of the parameter"),
        Column("looked_at", "i4", "elements", "elements compared"),
        Column("changed", "i4", "elements", "elements that changed at all"),
        Column("before_sq", "f8", "", "sum of squares of the parameter before the step"),
        Column("delta_sq", "f8", "", "sum of squares of (after - before)"),
        Column("gradient_sq", "f8", "", "sum of squares of the gradient; NaN: no gradient"),
        Column(
            "progress",
            "f8",
            "loss",
            "-<gradient, after - before>: first-order loss decrease "
            "bought by the looked-at elements; NaN: no gradient",
        ),
        Column("distance_sq", "f8", "", "sum of squares of (after - value at the first look)"),
    ),
)

SKETCHES = Table(
    "sketches",
    rows=True,
    doc="Fixed random projection of the gradient and of the update of a parameter. The inner product "
    "of two sketches of one parameter estimates the inner product of the looked-at elements.",
    columns=(
        _STEP,
        _PARAMETER,
        Column("of_update", "u1", "", "0: sketch of the gradient, 1: sketch of the update"),
        Column("scale", "f4", "", "value of one quantum: sketch = scale * values"),
        Column("values", "i1", "", "the quantised sketch", SKETCH_SIZE),
    ),
)

ACTIVATIONS = Table(
    "activations",
    rows=True,
    doc="One row for each sampled step, module, role and tensor; a module that is called several "
    "times in a step gives one row (sums over the calls).",
    columns=(
        _STEP,
        _MODULE,
        Column("role", "u1", "", "facts.Role: input, output, grad_input, grad_output"),
        Column("position", "u1", "", "index of the tensor among the flattened inputs or outputs"),
        Column("calls", "u2", "", "calls that were summed"),
        *_moments(),
        Column(
            "consumers",
            "i2",
            "",
            "edges of the autograd graph that read this tensor; above 1 its "
            "gradient is the sum over several consumers; -1: not counted in this step",
        ),
        Column(
            "source",
            "i4",
            "",
            "role input: id of the leaf module whose output this tensor is; -1: "
            "made by something that is no module (functional call, reshape, add)",
        ),
        Column("batch", "i4", "", "length of axis 0; -1: no axis"),
        Column(
            "spread",
            "f4",
            "",
            "role output: sqrt(variance over axis 0 / mean square), 0 when all "
            "samples look the same; NaN: not computed",
        ),
    ),
)

UNITS = Table(
    "units",
    rows=True,
    blob=True,
    doc="One row for each sampled step and activation: the state of each unit (channel). The blob "
    "holds first the any-active bitset (numpy.packbits, little bit order), then one byte a unit: the "
    "mean slope over batch and positions, 255 = the activation's largest slope. For an activation "
    "that is called as a function, ``module`` is the module that reads its result and role is input.",
    columns=(
        _STEP,
        _MODULE,
        Column("role", "u1", "", "facts.Role.OUTPUT (an activation module) or INPUT (see table)"),
        Column("activation", "u1", "", "facts.Activation"),
        Column("units", "i4", "units", "units of the activation"),
        Column("looked_at", "i4", "units", "units looked at (at most UNITS_LIMIT)"),
        Column("positions", "i8", "", "values seen for each unit: batch x spatial positions"),
        Column("active", "i4", "units", "units active at least once in this step"),
        Column(
            "slope",
            "f4",
            "",
            "mean slope over all units, 1 = the activation's largest; NaN: unknown",
        ),
        Column("offset", "i8", "bytes", "start of this row's bytes in the frame's blob"),
        Column("length", "i4", "bytes", "bytes of this row in the blob"),
    ),
)

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
        Column("detail", "json", "", "kind-specific facts, or null"),
    ),
)

LOSSES = Table(
    "losses",
    rows=False,
    doc="One record for each loss operation found in the graph of a backward call, on steps on which "
    "modules are sampled.",
    columns=(
        _STEP,
        Column("site", "text", "", "file:line of the backward call"),
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

PARAMETERS = Table(
    "parameters",
    rows=False,
    doc="One record for each parameter when it is met and again when it changes; the last one holds.",
    columns=(
        Column("parameter", "int", "", "id"),
        Column("root", "int", "", "id of the root module it was found under; -1: in no module"),
        Column("path", "text", "", "name below the root, as in named_parameters()"),
        Column("aliases", "json", "", "further names of a tied parameter"),
        Column("module", "int", "", "id of the owning module; -1: none"),
        Column("shape", "json", "", "shape"),
        Column("count", "int", "elements", "number of elements"),
        Column("dtype", "text", "", "torch dtype without the prefix, e.g. float32"),
        Column("device", "text", "", "device"),
        Column("requires_grad", "bool", "", "whether it requires grad"),
        Column("registered", "bool", "", "found by named_parameters() of the root"),
        Column("optimizer", "int", "", "ordinal of the optimizer that holds it; -1: none"),
        Column("group", "int", "", "parameter group in that optimizer; -1: none"),
        Column("initial_mean", "float", "", "mean before the first step"),
        Column("initial_std", "float", "", "standard deviation before the first step"),
        Column(
            "equal_rows",
            "bool",
            "",
            "all rows equal before the first step (a constant or symmetric "
            "initialisation); null for vectors",
        ),
        Column("fan_in", "int", "", "fan in, or null for vectors"),
        Column("fan_out", "int", "", "fan out, or null for vectors"),
        Column("reached", "bool", "", "reachable in the graph of the loss; null: not examined"),
        Column(
            "unreached_reason",
            "text",
            "",
            "frozen | unused | detached | no-grad | integer | other; null",
        ),
        Column("unreached_file", "text", "", "file of the cut, or null"),
        Column("unreached_line", "int", "", "line of the cut, or null"),
        Column(
            "unreached_operation", "text", "", "operation that cut the graph, e.g. detach; null"
        ),
        Column("step", "int", "", "step from which this record holds"),
    ),
)

MODULES = Table(
    "modules",
    rows=False,
    doc="One record for each module when it is met and again when it changes; the last one holds.",
    columns=(
        Column("module", "int", "", "id"),
        Column("root", "int", "", "id of its root module (its own id for a root)"),
        Column("root_label", "text", "", "name of the root's variable in the user's code, or null"),
        Column("trained", "bool", "", "roots: an optimizer holds parameters below it"),
        Column("path", "text", "", "name below the root, as in named_modules(); '' for the root"),
        Column("aliases", "json", "", "further names of a shared module"),
        Column("type", "text", "", "class name"),
        Column("torch_type", "text", "", "nearest class of torch.nn in its bases, or null"),
        Column("leaf", "bool", "", "has no child modules"),
        Column("registered", "bool", "", "found by named_modules() of the root"),
        Column(
            "activation", "int", "", "facts.Activation if it is a pointwise activation, else null"
        ),
        Column("parameters", "int", "elements", "elements of its own parameters"),
        Column(
            "order",
            "int",
            "",
            "ordinal of its first call in the last examined forward; null: never called",
        ),
        Column("calls", "int", "", "calls in that forward"),
        Column(
            "settings", "json", "", "constructor facts by name: in_features, kernel_size, p, eps, …"
        ),
        Column("file", "text", "", "file of the line that builds it, or null"),
        Column("line", "int", "", "that line, or null"),
        Column(
            "built_by",
            "text",
            "",
            "construction: seen while it was built; source: found by searching "
            "the class's source; null: not found",
        ),
        Column("step", "int", "", "step from which this record holds"),
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
            "{operation, phase, module (id), file, line, samples, reason} or null",
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

GRADCHECKS = Table(
    "gradchecks",
    rows=False,
    doc="Result of a finite-difference check, one record for each module and tensor.",
    columns=(
        Column("module", "int", "", "id"),
        Column("tensor", "text", "", "input or parameter, e.g. input 0, weight"),
        Column("verdict", "text", "", "right | wrong | by-design | inconclusive"),
        Column("kind", "text", "", "kind of fault, or null"),
        Column("analytic", "float", "", "directional derivative from backward"),
        Column("numeric", "float", "", "directional derivative from finite differences"),
        Column("error_bar", "float", "", "uncertainty of numeric"),
        Column("detail", "json", "", "errors by step size, worst indices, reason"),
    ),
)

SOURCES = Table(
    "sources",
    rows=False,
    doc="Text of the user's files that build a module, as it was when the run began: findings and diffs "
    "stay right after the file has changed.",
    columns=(
        Column("file", "text", "", "path relative to the working directory where possible"),
        Column("sha256", "text", "", "of the text"),
        Column("text", "text", "", "the text, at most 200,000 characters"),
    ),
)

RUN = Table(
    "run",
    rows=False,
    doc="Facts about the run as key and value; the last value of a key holds.",
    columns=(
        Column("key", "text", "", "one of RUN_KEYS"),
        Column("value", "json", "", "the value"),
    ),
)

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
    "first_step": "number of the first step",
    "settings": "the settings in force",
}

TABLES: tuple[Table, ...] = (
    GRADIENTS, UPDATES, SKETCHES, ACTIVATIONS, UNITS,
    STEPS, EVENTS, LOSSES, PARAMETERS, MODULES, ALARMS, EXAMINED, GRADCHECKS, SOURCES, RUN,
)  # fmt: skip
BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}


def all_facts() -> Iterator[str]:
    """Every legal name of a fact: ``table`` and ``table.column``."""
    for table in TABLES:
        yield table.name
        for column in table.columns:
            yield f"{table.name}.{column.name}"
