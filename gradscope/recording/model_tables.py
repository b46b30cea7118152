"""The record tables of what is told once: parameters, modules, checks, trials, sources, the run."""

from __future__ import annotations

from gradscope.recording.schema import Column, Table

PARAMETERS = Table(
    "parameters",
    rows=False,
    doc="One record for each parameter when it is met and again when it changes; the last holds.",
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
        Column(
            "shard",
            "json",
            "",
            "for a DTensor of which this rank holds a part: {parts, the number of parts; copy, "
            "whether another rank records the same part}; null: the rank holds all of it",
        ),
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
            "output_dtype",
            "text",
            "",
            "torch dtype of its first output there without the prefix, that of autocast where "
            "autocast made it; null: never called",
        ),
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

FEATURES = Table(
    "features",
    rows=False,
    doc="Statistics of each feature of what a root is given and of what its loss is compared with, "
    "in the examined steps; a feature is a channel (axis 1) of images and signals, else an element "
    "of the last axis. At most 1,024 features, beyond it every ``stride``-th.",
    columns=(
        Column("step", "int", "", "step"),
        Column("kind", "text", "", "input | target"),
        Column("module", "int", "", "input: id of the root; target: -1"),
        Column("position", "int", "", "index among the root's floating inputs, or of the loss"),
        Column("features", "int", "", "number of features"),
        Column("stride", "int", "", "every how manyeth feature is listed"),
        Column("count", "int", "", "values of each feature"),
        Column("mean", "json", "", "mean of each listed feature; null: not finite"),
        Column("std", "json", "", "standard deviation of each"),
        Column("low", "json", "", "smallest value of each; null for targets"),
        Column("high", "json", "", "largest value of each; null for targets"),
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

TRIALS = Table(
    "trials",
    rows=False,
    doc="What came of the fixes that were tried, one record for each finding and fix, and one for "
    "the best ones together. The records of the highest ``round`` hold.",
    columns=(
        Column("round", "int", "", "number of the call that tried fixes, from 0"),
        Column("kind", "text", "", "fix | together"),
        Column("finding", "text", "", "fingerprint of the finding; null: together"),
        Column("code", "text", "", "its rule's code; null: together"),
        Column("module", "text", "", "name of the module it names first, else of the parameter"),
        Column("fix", "text", "", "name of the fix; null: together"),
        Column("title", "text", "", "the change in words; null: together"),
        Column("change", "text", "", "sha256 of the change: title, diff and snippet"),
        Column("place", "int", "", "place among the finding's fixes, 0 the best"),
        Column("fixes", "json", "", "together: [code, title] of each; null: one fix"),
        Column("status", "text", "", "helped | no-effect | hurt | failed | not-tried"),
        Column("reason", "text", "", "why"),
        Column("seeds", "int", "", "seeds tried"),
        Column("steps", "int", "", "steps of each training"),
        Column("measure", "text", "", "loss | error (share of wrong answers)"),
        Column("control", "json", "measure", "at the end without the fix, for each seed"),
        Column("treated", "json", "measure", "at the end with it, for each seed"),
        Column("curves_control", "json", "measure", "on each step without it, a row a seed"),
        Column("curves_treated", "json", "measure", "on each step with it, a row a seed"),
        Column(
            "reach",
            "json",
            "",
            "[module, root mean square of the gradient at its output without the fix, with it]",
        ),
    ),
)

SOURCES = Table(
    "sources",
    rows=False,
    doc="Text of the user's files that build a module, as it was when the run began: findings and "
    "diffs stay right after the file has changed.",
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
