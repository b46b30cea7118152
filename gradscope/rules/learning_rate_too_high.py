"""GS401: steps so large that the training throws away what it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.held import Held, passed
from gradscope.diagnose.learning import DIVERGED, Learning, gate, loss_curve
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.movement import Movement, movement, rates
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.trained import parameter_states
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS401."""

    distance: float = 2.0
    """Way from the first weights over their size; docs/why/signals.md: above 1.9 recall .82 and
    false alarms .06 alone, .004 behind the gate."""
    peak: float = DIVERGED
    """Largest loss over the trivial one; docs/why/signals.md, "peak": recall .88, false alarms
    .12."""
    carried: float = -0.1
    """Slope along a step after it, over that before it: below, the step went past the bottom;
    docs/why/learning_rate.md: recall .78, false alarms .20 alone."""
    steady: float = 0.5
    """The same above which steps are small, whatever the way. Ours: half of the slope is left."""
    jump: float = 0.5
    """Largest update ratio of a step (median over the weights); docs/why/learning_rate.md: above
    .56 recall .86, false alarms .13 alone. Rounded."""


class LearningRateTooHigh(Rule):
    """The weights are thrown about instead of being led downhill."""

    code = "GS401"
    name = "learning-rate-too-high"
    title = "The learning rate is too high"
    title_ok = "The steps are not too large"
    family = "updates"
    severity = "critical"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("updates.distance_sq", 10),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Ask for a long way and for one of three signs that it led nowhere."""
        if windows.first_nonfinite(recording) is not None:
            return Undecided(
                "the training ends in NaN or Inf: growth up to there is judged by GS102, and what "
                "made the value by GS201"
            )
        moved = movement(recording)
        if math.isnan(moved.farthest):
            return Undecided("no weight matrix that does not begin at zero was followed")
        learning = gate(recording)
        way = (
            f"the weights went {number(moved.farthest)} times their first size at most, the limit "
            f"is {number(options.distance)}"
        )
        if moved.farthest <= options.distance or not signs(options, moved, learning):
            if moved.farthest > options.distance:
                return Passed(None, f"{way}, but nothing says that a step was too large")
            # weights that stayed where they were are not a number of times inside
            margin = options.distance / moved.farthest if moved.farthest > 0 else math.nan
            return passed(Held(margin, way))
        if learning.state == "learning":
            return Passed(None, f"{way}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"a long way is a fault only if it does harm: {learning.reason}")
        return Findings((_finding(recording, options, moved, learning),))


def signs(options: Options, moved: Movement, learning: Learning) -> tuple[str, ...]:
    """What speaks for steps that are too large, strongest first."""
    if moved.carried >= options.steady:
        # most of the slope is left after a step: the loss is high for another reason
        return ()
    found = []
    # a first loss that is high already (large targets, large weights) is no rise
    if learning.peak_excess > options.peak * max(1.0, learning.first_excess):
        found.append(
            f"the loss rose to {number(learning.peak_excess)} times what a constant answer costs"
        )
    elif learning.state == "diverged":
        found.append(f"the loss rose from {number(learning.first)} to {number(learning.last)}")
    if moved.peak_ratio > options.jump:
        found.append(f"one step changed the weights by {percent(moved.peak_ratio)} of their size")
    if moved.carried < options.carried:
        found.append("after a step the slope along it points back: it went past the bottom")
    return tuple(found)


def _finding(
    recording: Recording, options: Options, moved: Movement, learning: Learning
) -> Finding:
    known = signs(options, moved, learning)
    states = {state.name: state for state in parameter_states(recording)}
    owner = states[moved.parameter].module if moved.parameter in states else ""
    worst: Severity = "critical" if learning.excess > 1 or learning.state == "diverged" else (
        "warning"
    )  # fmt: skip
    severity, confidence = judged(worst, "strong", learning)
    rate = rates(recording)
    largest = float(rate.max()) if len(rate) else math.nan
    at = f" of {number(largest)}" if math.isfinite(largest) else ""
    return Finding(
        code=LearningRateTooHigh.code,
        name=LearningRateTooHigh.name,
        severity=severity,
        confidence=confidence,
        summary=f"The learning rate{at} is too high: the weights went "
        f"{number(moved.farthest)} times their own size, and {known[0]}.",
        modules=(owner,),
        parameters=(moved.parameter,) if moved.parameter else (),
        location=location_of(recording, owner),
        first_step=_first_step(recording, options),
        last_step=windows.last_step(recording),
        evidence=_evidence(options, moved, learning, largest),
        why=f"{why_harmful(learning)} Steps of this size leave the valley that the gradient "
        f"describes, so that each undoes what the last one gained.",
        causes=(
            f"A learning rate too high for this model and optimizer: {'; '.join(known)}.",
            f"Less likely: a single bad batch early on. The median step changed the weights by "
            f"{number(moved.ratio)} of their size.",
        ),
        kind="diverging" if learning.state == "diverged" else "unstable",
    )


def _first_step(recording: Recording, options: Options) -> int:
    curve = loss_curve(recording)
    high = curve.excess_steps[curve.excess > options.peak]
    return int(high[0]) if len(high) else int(curve.steps[0])


def _evidence(
    options: Options, moved: Movement, learning: Learning, rate: float
) -> tuple[Evidence, ...]:
    rows = (
        Evidence("farthest way of the weights over their first size", moved.farthest, "",
                 options.distance),
        Evidence("largest loss over that of a constant answer", learning.peak_excess, "",
                 options.peak),
        Evidence("largest update ratio of a step", moved.peak_ratio, "", options.jump),
        Evidence("median update ratio", moved.ratio),
        Evidence("slope along a step after it, over that before", moved.carried, "",
                 options.carried),
        Evidence("mean cosine of following steps", moved.turning),
        Evidence("largest learning rate", rate),
    )  # fmt: skip
    return (*(row for row in rows if math.isfinite(row.value)), *harm(learning))


__all__ = ["LearningRateTooHigh", "Options", "signs"]
