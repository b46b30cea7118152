"""The row tables: fixed-size numbers of sampled steps, one packed row for each object."""

from __future__ import annotations

from gradscope.recording.schema import Column, Table
from gradscope.recording.words import EXPONENT_BINS, SKETCH_SIZE

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
    doc="One row for each sampled step and parameter that the optimizer holds: what the step "
    "really did. All sums are over the ``looked_at`` elements of a fixed strided sample (all "
    "elements up to 4,096), so the update ratio is sqrt(delta_sq / before_sq).",
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
    doc="Fixed random projection of the gradient and of the update of a parameter. The inner "
    "product of two sketches of one parameter estimates that of the looked-at elements.",
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
            "sqrt(variance over axis 0 / mean square), 0 when all samples look the same; "
            "outputs of leaf modules, and inputs of those with parameters where source is -1; "
            "NaN: not computed",
        ),
    ),
)

UNITS = Table(
    "units",
    rows=True,
    blob=True,
    doc="One row for each sampled step and activation: the state of each unit (channel). The blob "
    "holds first the any-active bitset (numpy.packbits, little bit order), then one byte a unit: "
    "the mean slope over batch and positions, 255 = the activation's largest slope. For an "
    "activation that is called as a function, ``module`` is the module that reads its result and "
    "role is input.",
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
