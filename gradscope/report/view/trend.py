"""The one line that belongs to a finding: what it is about, over the steps of the run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Finding
from gradscope.diagnose.gains import layer_sizes
from gradscope.diagnose.learning import loss_curve
from gradscope.recording.reader import Recording
from gradscope.report.clean import one_line
from gradscope.report.view.layers import Layers, labels_of
from gradscope.report.view.numerals import number
from gradscope.report.view.sparkline import Line, sparkline

_BY_DEPTH = ("GS101", "GS102")
"""Codes of findings about the gradient's way from the loss to the input."""
_NOT_BY_DEPTH = ("through-time", "learning-rate")
"""... but for these kinds."""


@dataclass(frozen=True)
class Trend:
    """A sparkline with the words beside it.

    Attributes:
        svg: the picture.
        caption: what the line is, with its first and last value.
        other: what the quiet line is, or "".
    """

    svg: Markup
    caption: str
    other: str = ""


def trend(finding: Finding, recording: Recording, layers: Layers) -> Trend | None:
    """The trend that shows ``finding``, None where nothing of the kind was recorded.

    Of a finding about the gradient's way through the layers what arrives at both ends of it; of
    another one about a layer that layer's gradient, beside the last layer's for comparison; of a
    finding about the whole model the loss.
    """
    if is_by_depth(finding):
        by_depth = _arriving(finding, recording)
        if by_depth is not None:
            return by_depth
    row = next(
        (
            found
            for name in (*finding.modules, *finding.parameters)
            if name and (found := layers.row_of(name)) is not None
        ),
        None,
    )
    if row is None or not np.isfinite(layers.rms[row]).any():
        return _loss(finding, recording)
    name = layers.labels[row]
    lines = [Line(name, _logs(layers.rms[row]), "line")]
    other = ""
    if row != len(layers.layers) - 1 and np.isfinite(layers.rms[-1]).any():
        last = layers.labels[-1]
        lines.insert(0, Line(last, _logs(layers.rms[-1]), "quiet"))
        other = f"{last}: {_ends(layers.rms[-1])}"
    caption = f"{name}: {_ends(layers.rms[row])}"
    label = f"RMS of the weights' gradient by step, logarithmic. {caption}. {other}"
    steps = layers.steps.astype(np.float64)
    svg = sparkline(steps, lines, label, _span(finding, steps))
    return Trend(svg, f"RMS of the weights' gradient in {caption}", other) if svg else None


def is_by_depth(finding: Finding) -> bool:
    """Whether a finding is about what arrives at the layers' outputs."""
    return finding.code in _BY_DEPTH and finding.kind not in _NOT_BY_DEPTH


def _arriving(finding: Finding, recording: Recording) -> Trend | None:
    """What the rule measured: the gradient's norm at the first and the last layer with weights."""
    steps = windows.sampled_steps(recording, "activations")
    _, found, norm = layer_sizes(recording, steps, None)
    heard = [
        row
        for row, layer in enumerate(found)
        if layer.kind == "weight" and np.isfinite(norm[row]).any()
    ]
    if len(heard) < 2:
        return None
    labels = labels_of(recording)
    first, last = heard[0], heard[-1]
    name, end = (labels.get(one_line(found[row].module), "the model") for row in (first, last))
    caption = f"the output of {name}: {_ends(norm[first])}"
    other = f"at the output of {end}: {_ends(norm[last])}"
    lines = [Line(end, _logs(norm[last]), "quiet"), Line(name, _logs(norm[first]), "line")]
    x = steps.astype(np.float64)
    label = f"Norm of the gradient by step, logarithmic. At {caption}; {other}"
    svg = sparkline(x, lines, label, _span(finding, x))
    return Trend(svg, f"Gradient norm at {caption}", other) if svg else None


def _loss(finding: Finding, recording: Recording) -> Trend | None:
    curve = loss_curve(recording)
    lines = [Line("loss", curve.loss, "line")]
    label = f"Loss by step: {_ends(curve.loss)}"
    svg = sparkline(curve.steps, lines, label, _span(finding, curve.steps))
    return Trend(svg, f"Loss: {_ends(curve.loss)}") if svg else None


def _span(finding: Finding, steps: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The stretch to shade; None where there is none, or it would be the whole picture."""
    if not finding.has_steps:
        return None
    if len(steps) and finding.first_step <= steps[0] and finding.last_step >= steps[-1]:
        return None
    return float(finding.first_step), float(finding.last_step)


def _ends(values: npt.NDArray[np.float64]) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "never finite"
    return f"{number(float(finite[0]))} at first, {number(float(finite[-1]))} at last"


def _logs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        logs = np.log10(values)
    logs[~np.isfinite(logs)] = np.nan
    return logs
