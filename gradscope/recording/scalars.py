"""A recording as scalars by step, in the form that experiment trackers take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gradscope.recording.facts import Role, State
from gradscope.recording.reader import Recording

_READ = (State.FINITE, State.EXACT_ZERO, State.NON_FINITE)
"""States in which there was a gradient to read."""


@dataclass(frozen=True)
class StepScalars:
    """What was recorded of one step.

    Attributes:
        step: the optimizer step.
        time: seconds since the recording began, at the end of the step.
        values: value by tag. ``loss``, ``learning_rate`` (``learning_rate/1`` for the second
            parameter group), ``loss_scale``, ``gradient_norm`` and ``gradient_norm_before_clip`` of
            all parameters together; ``gradient_norm/<parameter>`` and ``update_ratio/<parameter>``
            of each; ``activation_rms/<module>`` and ``output_gradient_rms/<module>`` of each
            module's first output. What was not recorded in this step is not there; NaN and Inf are
            values that were seen.
    """

    step: int
    time: float
    values: dict[str, float] = field(default_factory=dict)


def scalars(recording: Recording, after: int = -1) -> Iterator[StepScalars]:
    """The scalars of each step in order.

    Args:
        recording: what was recorded.
        after: only steps above this one.
    """
    by_step: dict[int, dict[str, float]] = {}
    for frame, tag, column, name in _series(recording):
        for step, value, label in zip(frame["step"], frame[column], frame[name], strict=True):
            if step > after:
                by_step.setdefault(int(step), {})[f"{tag}/{label or '(model)'}"] = float(value)
    for row in recording.steps.itertuples(index=False):
        if row.step > after:
            found = StepScalars(int(row.step), float(row.time), _of_step(row))
            found.values.update(by_step.get(found.step, {}))
            yield found


def _of_step(row: Any) -> dict[str, float]:
    values: dict[str, float] = {}
    # a missing loss and a loss that was NaN are both NaN in the frame; only the latter has a site
    if pd.notna(row.site):
        values["loss"] = float(row.loss)
    for group, rate in enumerate(row.lr or ()):
        if rate is not None and pd.notna(rate):
            values["learning_rate" + (f"/{group}" if group else "")] = float(rate)
    if pd.notna(row.loss_scale):
        values["loss_scale"] = float(row.loss_scale)
    clipped = pd.notna(row.clip_limit)
    if clipped:
        values["gradient_norm_before_clip"] = float(row.norm_before_clip)
    if clipped or row.parameters_sampled:
        values["gradient_norm"] = float(row.norm)
    return values


def _series(recording: Recording) -> Iterator[tuple[pd.DataFrame, str, str, str]]:
    """Frames of one value a step and name: the frame, the tag, its column, the name's column."""
    gradients = recording.gradients
    yield gradients[gradients["state"].isin(_READ)], "gradient_norm", "norm", "parameter"
    updates = recording.updates
    yield updates[updates["ratio"].notna()], "update_ratio", "ratio", "parameter"
    activations = recording.activations
    first = activations[(activations["position"] == 0) & (activations["count"] > 0)]
    for role, tag in (
        (Role.OUTPUT, "activation_rms"),
        (Role.GRAD_OUTPUT, "output_gradient_rms"),
    ):
        yield first[first["role"] == role], tag, "rms", "module"
