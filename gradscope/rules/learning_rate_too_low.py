"""GS402: real steps that are far too small to arrive, from the start or by the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.held import Held, farthest, passed
from gradscope.diagnose.learning import EXCESS, Learning, gate, loss_curve
from gradscope.diagnose.movement import Floats, Movement, movement, rates
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import count, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS402."""

    aligned: float = 0.3
    """Alignment of ten gradients, 1 = all the same, 0.1 = noise; docs/why/learning_rate.md: above
    .34 recall .80; .32 to .65 in later runs where the rate is too low, .06 to .26 where another
    fault stops the training."""
    carried: float = 0.5
    """Slope along a step after it, over that before it; docs/why/learning_rate.md: above
    .67 recall .72, false alarms .21 alone. Ours: half of the slope is left."""
    distance: float = 0.3
    """Way from the first weights over their size. docs/why/signals.md has 4.4 % at 20 steps; a
    longer run goes farther, and .3 is below what every training had gone that arrived within 100
    steps without a normalisation."""
    above_noise: float = 0.2
    """Alignment that counts beside weights that went nowhere: .23 is the lowest where the rate is
    too low, .10 to .11 where labels are shuffled (docs/why/learning_rate.md)."""
    nowhere: float = 0.02
    """Way of the weights for that. Ours: less than half of the 4.4 % of docs/why/signals.md, which
    are of 20 steps."""
    decayed: float = 0.01
    """Learning rate over its largest value below which it is spent. Ours: cosine and linear
    schedules are below it for the last 6 % and 1 % of their steps."""
    spent: float = 0.25
    """Share of the steps with a spent learning rate that makes the schedule the cause. Ours."""


class LearningRateTooLow(Rule):
    """The gradient shows the way, and the steps along it are too small."""

    code = "GS402"
    name = "learning-rate-too-low"
    title = "The learning rate is too low"
    title_ok = "The steps are large enough"
    family = "updates"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("sketches", 20, why="gradients and updates were recorded on too few steps"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Ask for a gradient that is still there and weights that hardly moved."""
        moved = movement(recording)
        if math.isnan(moved.aligned):
            return Undecided("no ten gradients of a weight matrix were recorded that are not zero")
        rate = rates(recording)
        kind = kind_of(options, moved, rate)
        learning = gate(recording)
        measured = (
            f"ten gradients agree to {number(moved.aligned)}, the limit is "
            f"{number(options.aligned)}; the weights went {number(moved.distance)} of their size, "
            f"the limit is {number(options.distance)}"
        )
        if not kind:
            return _passed(options, moved)
        if learning.state == "learning" and not _crawls(recording, learning, kind):
            return Passed(None, f"{measured}, but it trains: {learning.reason}")
        if learning.state in ("early", "unknown"):
            return Undecided(f"small steps are a fault only if they do harm: {learning.reason}")
        if learning.state == "diverged":
            return Passed(None, f"the loss rises, which small steps do not do: {learning.reason}")
        return Findings((_finding(recording, options, moved, learning, rate, kind),))


def _passed(options: Options, moved: Movement) -> Passed:
    went = f"the weights went {number(moved.distance)} of their size"
    agree = f"ten gradients agree to {number(moved.aligned)}"
    less = moved.aligned <= options.aligned
    far = Held(
        moved.distance / options.distance,
        f"{went}: more than the {number(options.distance)} below which they have hardly moved",
    )
    # steps are too small where the gradient keeps its direction and the weights hardly moved
    turned = Held(
        options.aligned / moved.aligned if moved.aligned > 0 else math.nan,
        f"{agree}: less than the {number(options.aligned)} from which they show one way"
        if less
        else agree,
    )
    decides = farthest((far, turned))
    return passed(decides, agree if decides is far else went)


def _crawls(recording: Recording, learning: Learning, kind: str) -> bool:
    """Whether it falls, but needs as many steps again as it has had to come below EXCESS.

    Steps that are too small make a loss fall all the time: for them alone a fall is no excuse.
    """
    return kind == "low" and _more_steps(recording, learning) > learning.steps


def kind_of(options: Options, moved: Movement, rate: Floats) -> str:
    """``zero``, ``schedule``, ``low``, or "" where the steps are not too small."""
    if len(rate) and not rate.any():
        return "zero"
    if spent_share(options, rate) >= options.spent and moved.aligned >= options.aligned:
        return "schedule"
    return "low" if barely_moves(options, moved) else ""


def barely_moves(options: Options, moved: Movement) -> bool:
    """Whether the gradient still points one way while the weights have hardly left their start."""
    steady = moved.aligned >= options.aligned or moved.carried >= options.carried
    # where next to nothing moved, a direction that stands above the noise is enough
    steady |= moved.aligned >= options.above_noise and moved.distance <= options.nowhere
    return steady and 0 < moved.distance <= options.distance


def spent_share(options: Options, rate: Floats) -> float:
    """Share of all steps that come after the largest rate and below ``decayed`` of it."""
    if not len(rate) or not rate.max() > 0:
        return 0.0
    behind = np.arange(len(rate)) > int(rate.argmax())
    return float((behind & (rate < options.decayed * rate.max())).mean())


def _finding(
    recording: Recording,
    options: Options,
    moved: Movement,
    learning: Learning,
    rate: Floats,
    kind: str,
) -> Finding:
    severity, confidence = judged("warning", "strong", learning)
    largest = float(rate.max()) if len(rate) else math.nan
    last = float(rate[-1]) if len(rate) else math.nan
    spent = spent_share(options, rate)
    pace = _more_steps(recording, learning)
    return Finding(
        code=LearningRateTooLow.code,
        name=LearningRateTooLow.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(kind, moved, learning, largest, last, spent),
        modules=("",),
        first_step=_since(recording, options, rate) if kind == "schedule" else 0,
        last_step=windows.last_step(recording),
        evidence=_evidence(options, moved, largest, last, spent, pace) + harm(learning),
        why=why_harmful(learning) + _outlook(pace, learning),
        causes=_causes(kind, moved),
        kind=kind,
    )


def _since(recording: Recording, options: Options, rate: Floats) -> int:
    steps = recording.steps["step"].to_numpy(np.int64)
    spent = (np.arange(len(rate)) > int(rate.argmax())) & (rate < options.decayed * rate.max())
    return int(steps[spent][0])


def _more_steps(recording: Recording, learning: Learning) -> float:
    """Steps to the limit of the gate at the second half's pace; NaN if it does not fall."""
    curve = loss_curve(recording)
    excess = curve.excess[np.isfinite(curve.excess)]
    half = excess[len(excess) // 2 :]
    if not learning.falling or len(half) < 2 or len(excess) != len(curve.loss):
        return math.nan
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0])
    return (learning.excess - EXCESS) / -slope if slope < 0 else math.nan


def _outlook(pace: float, learning: Learning) -> str:
    if not pace > 0:
        return ""
    more = count(math.ceil(pace), "step")
    return f" At this pace it takes {more} more to come below {percent(EXCESS)}."


def _summary(
    kind: str, moved: Movement, learning: Learning, largest: float, last: float, spent: float
) -> str:
    if kind == "zero":
        return f"The learning rate is 0 on each of {count(learning.steps, 'step')}."
    if kind == "schedule":
        return (
            f"The schedule took the learning rate to nothing: from {number(largest)} to "
            f"{number(last)}, below a hundredth of its largest value for {percent(spent)} of the "
            f"steps, while the gradient still shows a way down."
        )
    at = f" of {number(largest)}" if math.isfinite(largest) else ""
    return (
        f"The learning rate{at} is too low: after {count(learning.steps, 'step')} the weights have "
        f"moved by {percent(moved.distance)} of their size, all in one direction."
    )


def _causes(kind: str, moved: Movement) -> tuple[str, ...]:
    agree = f"ten gradients agree to {number(moved.aligned)}, where noise alone gives 0.1"
    if kind == "zero":
        return ("No parameter group has a learning rate above 0.",)
    if kind == "schedule":
        return (
            f"A schedule that is stepped too often (each batch instead of each epoch) or decays "
            f"too fast: {agree}.",
        )
    return (
        f"A learning rate too low for this model and optimizer: {agree}, and the median step "
        f"changes the weights by {number(moved.ratio)} of their size.",
        "Less likely: gradients made small by a clip, or a loss divided by a large factor under an "
        "optimizer that does not undo it.",
    )


def _evidence(
    options: Options, moved: Movement, largest: float, last: float, spent: float, pace: float
) -> tuple[Evidence, ...]:
    rows = (
        Evidence("alignment of ten gradients", moved.aligned, "", options.aligned),
        Evidence("slope along a step after it, over that before", moved.carried, "",
                 options.carried),
        Evidence("way of the weights over their first size", moved.distance, "", options.distance),
        Evidence("median update ratio", moved.ratio),
        Evidence("largest learning rate", largest),
        Evidence("last learning rate", last),
        Evidence("share of the steps with a spent learning rate", spent, "", options.spent),
        Evidence("steps still to go at this pace", pace, "steps"),
    )  # fmt: skip
    return tuple(row for row in rows if math.isfinite(row.value))


__all__ = ["LearningRateTooLow", "Options", "barely_moves", "kind_of", "spent_share"]
