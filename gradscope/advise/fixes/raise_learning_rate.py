"""raise-learning-rate: larger steps, by how much this run's updates were too small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Remedy, Treatment, lead
from gradscope.advise.measures import LARGEST_FACTOR, USUAL_UPDATE, update_ratio
from gradscope.advise.rate_change import rate_change, rate_treatment
from gradscope.advise.source import Source
from gradscope.advise.treatments.steps import Rate
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

MORE = 10_000.0
"""Largest factor: rates that are further off are a slip of the pen that a person sees."""


class RaiseLearningRate(Remedy):
    """Multiply the optimizer's learning rate by a power of ten, or let it stay what it was."""

    name = "raise-learning-rate"
    answers: ClassVar[Mapping[str, int]] = {
        "GS203": 2,
        "GS402": 1,
        "GS402:zero": 0,
        "GS502": 2,
        "GS505": 2,
    }

    def __init__(self, factor: float | None = None) -> None:
        """Make one that multiplies by ``factor``; None to take it from the measured updates."""
        self.factor = factor

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Updates far below the usual size."""
        ratio = update_ratio(recording, finding)
        blamed = finding.code in ("GS402", "GS502")
        if not blamed and (ratio is None or ratio >= USUAL_UPDATE / 3):
            return None
        measured = lead(finding)
        if ratio is None or ratio <= 0:
            return f"{measured}: steps of this size do not arrive"
        return (
            f"{measured}: each step changed a weight by {100 * ratio:.2g} % of its size (worst "
            f"weight, median of the first steps); a step that trains changes it by about "
            f"{100 * USUAL_UPDATE:g} %"
        )

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """A short range test: the measured factor, a tenth and ten times it."""
        middle = _measured(finding, recording)
        factors = (middle, middle / 10, middle * 10)
        return tuple(RaiseLearningRate(f) for f in factors if 1 < f <= MORE)

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change ``lr`` where the optimizer is built."""
        cost = "a rate that is too high throws the weights away"
        change = rate_change(recording, source, self._factor(finding, recording), cost)
        if finding.kind != "schedule":
            return change
        return Change(
            title="let the learning rate stay what it is at first: leave the schedule out",
            applicability="may-change-results",
            cost="without a schedule the end of the training is less exact",
            snippet="# leave this call out, or make it once an epoch:\n# scheduler.step()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Step with the higher rate; where the schedule is blamed, with the first one."""
        if finding.kind == "schedule":
            return Treatment((Rate(1.0, constant=True),))
        return rate_treatment(recording, self._factor(finding, recording))

    def _factor(self, finding: Finding, recording: Recording) -> float:
        return self.factor or _measured(finding, recording)


def _measured(finding: Finding, recording: Recording) -> float:
    """A power of ten that takes the median update to the usual size."""
    ratio = update_ratio(recording, finding)
    if ratio is None or ratio <= 0:
        return 100.0
    power = round(math.log10(USUAL_UPDATE / ratio))
    return float(min(max(10.0**power, 10.0), LARGEST_FACTOR * 10))
