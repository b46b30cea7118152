"""lower-learning-rate: smaller steps, by how much this run's updates were too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Remedy, Treatment, lead
from gradscope.advise.measures import LARGEST_FACTOR, USUAL_UPDATE, rate_factor, update_ratio
from gradscope.advise.rate_change import rate_change, rate_treatment
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class LowerLearningRate(Remedy):
    """Divide the optimizer's learning rate by a power of ten."""

    name = "lower-learning-rate"
    answers: ClassVar[Mapping[str, int]] = {
        "GS102": 4,
        "GS102:learning-rate": 1,
        "GS102:through-time": 2,
        "GS105": 1,
        # units that were dead from the start are no matter of the rate
        "GS301:learning-rate": 1,
        "GS302:learning-rate": 2,
        "GS303:training": 2,
        "GS401": 1,
        "GS505": 3,
    }

    def __init__(self, factor: float | None = None) -> None:
        """Make one that divides by ``factor``; None to take it from the measured updates."""
        self.factor = factor

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """A rate that the finding blames, or updates far above the usual size."""
        # half-dead layers alone do not blame the rate: a loss that still falls would fall slower
        if finding.code == "GS301" and finding.severity == "note":
            return None
        ratio = update_ratio(recording, finding)
        blamed = finding.kind in ("learning-rate", "through-time") or finding.code in (
            "GS401", "GS105",
        )  # fmt: skip
        if not blamed and (ratio is None or ratio <= 10 * USUAL_UPDATE):
            return None
        measured = lead(finding)
        if ratio is None:
            return f"{measured}: steps of this size threw the weights away"
        return (
            f"{measured}: each step changed a weight by {100 * ratio:.2g} % of its size (worst "
            f"weight, median of the first steps); a step that trains changes it by about "
            f"{100 * USUAL_UPDATE:g} %"
        )

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """A short range test: the measured factor, and a tenth and ten times it."""
        middle = rate_factor(update_ratio(recording, finding))
        factors = (middle, middle / 10, middle * 10)
        return tuple(LowerLearningRate(f) for f in factors if 1 < f <= LARGEST_FACTOR)

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change ``lr`` where the optimizer is built."""
        cost = "training may need more steps; a schedule's later values fall with it"
        return rate_change(recording, source, 1 / self._factor(finding, recording), cost)

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Step with the lower rate."""
        return rate_treatment(recording, 1 / self._factor(finding, recording))

    def _factor(self, finding: Finding, recording: Recording) -> float:
        return self.factor or rate_factor(update_ratio(recording, finding))
