"""The size of the gradient at each layer and the gain of each layer, from the recorded sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
Kind = Literal["weight", "activation", "other"]

TINY = 1e-30
"""An RMS gradient below it next to one that is exactly zero means that float32 ran out of range
(its smallest number is 1.4e-45): the zero is the end of a decline, not a cut."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One module that runs no other module, in call order; sizes are medians over the window.

    Attributes:
        module: qualified name.
        module_id: its id in the recording.
        kind: ``weight`` (owns a matrix), ``activation`` (pointwise), ``other`` (norm, pooling …).
        norm: norm of the loss gradient at its output, with its 10 % and 90 % quantiles ``norm_low``
            and ``norm_high``; NaN where it is exactly zero (a cut, dead units).
        gain: norm of the loss gradient at its input / at its output; NaN where unknown.
        between: norm at its output / at the input of the next module: the gain of the functional
            activations, reshapes and adds that stand between; NaN where unknown or branching.
        between_kind: what a ``between`` counts as.
        output_rms: RMS of its output.
    """

    module: str
    module_id: int
    kind: Kind
    norm: float
    norm_low: float
    norm_high: float
    gain: float
    between: float
    between_kind: Kind
    output_rms: float


def layer_sizes(
    recording: Recording, window: windows.Steps, root: int | None
) -> tuple[int, tuple[Layer, ...], Floats]:
    """The layers of one root with their gradients over ``window``.

    Args:
        recording: what was recorded.
        window: steps to look at.
        root: id of the root module; None for the trained one with most layers.

    Returns:
        the root's id, its layers in call order, and the norm of the gradient at each layer's output
        ``[layers, steps]``, NaN where it was not recorded or a cut or dead units make it zero.
    """
    modules = _called_leaves(recording)
    if root is None:
        sizes = {r: int((modules["root"] == r).sum()) for r in trained_roots(recording)}
        root = max(sizes, key=lambda r: sizes[r], default=-1)
    modules = modules[modules["root"] == root]
    kinds = _kinds(recording, modules)
    rows = recording.activations
    rows = rows[rows["step"].isin(window) & rows["module_id"].isin(kinds)]
    at_output = _norms(rows, Role.GRAD_OUTPUT, window)
    at_input = _norms(rows, Role.GRAD_INPUT, window)
    known = [int(m) for m in modules["module"] if m in at_output]
    if not known or not len(window):
        return root, (), np.zeros((0, len(window)))
    counts = _counts(rows, Role.GRAD_OUTPUT), _counts(rows, Role.GRAD_INPUT)
    norm = _floor(np.array([at_output[m] for m in known]), [counts[0][m] for m in known])
    return root, _layers(recording, rows, known, kinds, norm, at_input, window, counts), norm


def trained_roots(recording: Recording) -> list[int]:
    """Ids of the root modules that an optimizer trains; of all roots where none is marked."""
    roots = recording.modules
    roots = roots[roots["module"] == roots["root"]]
    trained = roots[roots["trained"].fillna(False).astype(bool)]
    return [int(m) for m in (trained if len(trained) else roots)["module"]]


# ---------------------------------------------------------------------- which modules


def _called_leaves(recording: Recording) -> pd.DataFrame:
    """Modules that were called and called no other module, in call order."""
    modules = recording.modules
    called = modules[modules["order"].notna()].sort_values("order")
    parents = set()
    for _, row in called.iterrows():
        path = str(row["path"])
        while path:
            path = path.rpartition(".")[0]
            parents.add((int(row["root"]), path))
    keep = [
        (int(root), str(path)) not in parents
        for root, path in zip(called["root"], called["path"], strict=True)
    ]
    # an empty list would be read as a choice of columns
    return called[np.array(keep, bool)]


def _kinds(recording: Recording, modules: pd.DataFrame) -> dict[int, Kind]:
    parameters = recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    owners = {int(m) for m in parameters["module"][matrix & parameters["requires_grad"]]}
    found: dict[int, Kind] = {}
    for identity, activation in zip(modules["module"], modules["activation"], strict=True):
        if int(identity) in owners:
            found[int(identity)] = "weight"
        else:
            found[int(identity)] = "other" if pd.isna(activation) else "activation"
    return found


# ---------------------------------------------------------------------- sizes


def _norms(rows: pd.DataFrame, role: Role, window: windows.Steps) -> dict[int, Floats]:
    """Norm over all tensors of a role, ``[steps]`` for each module; NaN where not recorded."""
    rows = rows[(rows["role"] == role) & (rows["nonfinite"] == 0)]
    total = rows.groupby(["module_id", "step"])["sum_sq"].sum().unstack("step")
    norms = np.sqrt(total.reindex(columns=window).to_numpy(float))
    return {int(module): row for module, row in zip(total.index, norms, strict=True)}


def _counts(rows: pd.DataFrame, role: Role) -> dict[int, float]:
    """Elements of a role's tensors in one step, for each module."""
    rows = rows[rows["role"] == role]
    total = rows.groupby(["module_id", "step"])["count"].sum().groupby(level=0).median()
    return {int(module): float(value) for module, value in total.items()}


def _floor(norm: Floats, counts: Sequence[float]) -> Floats:
    """Norms ``[layers, steps]`` with zeros by underflow set to the smallest float32 number.

    Going from the loss to the input, a zero behind a gradient below ``TINY`` is underflow; any
    other zero is a cut or dead units, which are not this file's business: NaN.
    """
    out = norm.copy()
    smallest = 2.0**-149
    for step in range(out.shape[1] if out.ndim == 2 else 0):
        behind = math.inf
        for layer in reversed(range(len(out))):
            value = out[layer, step]
            if value == 0:
                value = smallest if behind < TINY else math.nan
                out[layer, step] = value
            if not math.isnan(value):
                behind = value / math.sqrt(counts[layer])
    return out


def _layers(
    recording: Recording,
    rows: pd.DataFrame,
    known: list[int],
    kinds: dict[int, Kind],
    norm: Floats,
    at_input: dict[int, Floats],
    window: windows.Steps,
    counts: tuple[dict[int, float], dict[int, float]],
) -> tuple[Layer, ...]:
    outputs = _norms(rows, Role.OUTPUT, window)
    output_counts = _counts(rows, Role.OUTPUT)
    branching = set(
        rows["module_id"][(rows["role"] == Role.OUTPUT) & (rows["consumers"] > 1)].astype(int)
    )
    functional = bool((recording.examined["kind"] == "activation").any())
    layers = []
    for index, module in enumerate(known):
        size = norm[index]
        gain = _ratio(at_input.get(module), size)
        between: float = math.nan
        between_kind: Kind = "other"
        after = known[index + 1] if index + 1 < len(known) else -1
        if after in at_input and module not in branching:
            between = _ratio(size, at_input[after])
            # a pooling or a reshape between changes the number of elements; an activation does not
            if functional and counts[0][module] == counts[1].get(after):
                between_kind = "activation"
        low, high = quantiles(size)
        output = median(outputs[module]) if module in outputs else math.nan
        layers.append(
            Layer(
                module=recording.module_names[module],
                module_id=module,
                kind=kinds[module],
                norm=median(size),
                norm_low=low,
                norm_high=high,
                gain=gain,
                between=between,
                between_kind=between_kind,
                output_rms=output / math.sqrt(output_counts[module])
                if module in outputs
                else math.nan,
            )
        )
    return tuple(layers)


def _ratio(top: Floats | None, bottom: Floats | None) -> float:
    """Median over the steps of one size over another, where both are positive."""
    if top is None or bottom is None:
        return math.nan
    usable = (top > 0) & (bottom > 0)
    return median(top[usable] / bottom[usable])


def median(values: Floats) -> float:
    """Median of the finite ones of ``values``; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def quantiles(values: Floats, tail: float = 0.1) -> tuple[float, float]:
    """The ``tail`` and ``1 - tail`` quantiles of the finite ones; NaN if there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
