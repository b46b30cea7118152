"""How much of the gradient a bounded output passes on that stands, as a function, before a loss.

A squared error of a sigmoid sends back ``error x slope``: where the answers are surely wrong, the
slope is nothing (Bishop 1995, section 6.7). The module behind the function is not recorded, but the
gradient that a mean squared error sends into its input is known from its value: its norm is
``2 sqrt(value / elements)``, times the factor around the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.gains import median, trained_roots
from gradscope.recording.facts import Role
from gradscope.recording.reader import Recording

BOUNDED = {"Sigmoid": "sigmoid", "Softmax": "softmax", "Tanh": "tanh", "Hardsigmoid": "hardsigmoid"}
"""Nodes of the graph whose results are bounded."""


@dataclass(frozen=True, slots=True)
class OutputSlope:
    """The output function of a squared error, and what it passes on.

    Attributes:
        function: its name.
        module, module_id: the last layer with weights before it.
        arrives: gradient norm at that layer's output, median over the window.
        sent: gradient norm that the loss sends into the function.
        decades: powers of ten between the two.
        first_step, last_step: of the window.
    """

    function: str
    module: str
    module_id: int
    arrives: float
    sent: float
    decades: float
    first_step: int
    last_step: int


def output_slope(recording: Recording) -> OutputSlope | None:
    """What the output function lets through; None where no squared error of one was seen."""
    window = windows.last_window(recording, "activations")
    losses = recording.losses
    losses = losses[(losses["operation"] == "mse") & losses["step"].isin(window)]
    losses = losses[losses["value"].notna() & losses["share"].notna()]
    node = losses["input_operation"].astype(str).str.extract(r"^(\w+?)Backward\d*$")[0]
    losses = losses[node.isin(BOUNDED)]
    layer = _last_layer(recording)
    if not len(losses) or layer < 0 or losses["term"].nunique() > 1:
        return None
    sent = losses.groupby("step").apply(_sent, include_groups=False)
    rows = recording.activations
    rows = rows[(rows["module_id"] == layer) & (rows["role"] == Role.GRAD_OUTPUT)]
    rows = rows[(rows["nonfinite"] == 0) & rows["step"].isin(sent.index)]
    arrives = np.sqrt(rows.groupby("step")["sum_sq"].sum())
    both = pd.concat([sent.rename("sent"), arrives.rename("arrives")], axis=1).dropna()
    both = both[(both["sent"] > 0) & (both["arrives"] > 0)]
    if not len(both):
        return None
    lost = np.log10(both["sent"].to_numpy(float) / both["arrives"].to_numpy(float))
    last = str(losses["input_operation"].iloc[-1]).partition("Backward")[0]
    return OutputSlope(
        function=BOUNDED[last],
        module=recording.module_names[layer],
        module_id=layer,
        arrives=median(both["arrives"].to_numpy(float)),
        sent=median(both["sent"].to_numpy(float)),
        decades=median(lost),
        first_step=int(both.index[0]),
        last_step=int(both.index[-1]),
    )


def _sent(looks: pd.DataFrame) -> float:
    """Norm of the gradient at the loss's input, over the micro-batches of a step."""
    total = 0.0
    for look in looks.to_dict("records"):
        elements = math.prod(look["element_shape"] or look["input_shape"] or [])
        total += look["share"] ** 2 * 4 * look["value"] / max(1, elements)
    return math.sqrt(total)


def _last_layer(recording: Recording) -> int:
    """The layer with weights that was called last in the trained root with most layers, or -1."""
    modules, parameters = recording.modules, recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    owners = {int(m) for m in parameters["module"][matrix]}
    called = modules[modules["order"].notna() & modules["module"].isin(owners)]
    called = called[called["root"].isin(trained_roots(recording))]
    if not len(called):
        return -1
    root = called["root"].value_counts().idxmax()
    own = called[called["root"] == root]
    return int(own.loc[own["order"].astype("float64").idxmax(), "module"])


__all__ = ["BOUNDED", "OutputSlope", "output_slope"]
