"""GS505: the loss does not fall, and no other rule says why."""

from __future__ import annotations

import math

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.held import Held, passed
from gradscope.diagnose.learning import DIVERGED, STUCK, Learning, gate, loss_curve
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.rule import Findings, Need, Outcome, Rule, Undecided
from gradscope.diagnose.verdict import judged
from gradscope.diagnose.wording import count, number, percent
from gradscope.recording.reader import Recording


class LossNotDecreasing(Rule):
    """The loss does not fall below what a constant answer would cost."""

    code = "GS505"
    name = "loss-not-decreasing"
    title = "The loss does not fall"
    title_ok = "The loss falls below that of a constant answer"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (Need("steps.loss", 3, why="no loss was seen"),)

    def check(self, recording: Recording, _options: None) -> Outcome:
        """Judge the gate's state; slow and weak learning is learning here."""
        learning = gate(recording)
        if learning.state in ("early", "unknown"):
            return Undecided(learning.reason)
        if learning.state in ("learning", "slow", "weak"):
            margin = STUCK / learning.excess if learning.excess > 0 else math.nan
            limit = f"the limit is {percent(STUCK)}"
            return passed(Held(margin, learning.reason), limit if margin >= 1 else "")
        return Findings((_finding(recording, learning),))


def _finding(recording: Recording, learning: Learning) -> Finding:
    curve = loss_curve(recording)
    severity, confidence = judged("warning", "strong", learning)
    kind = "constant" if learning.constant else learning.state
    return Finding(
        code=LossNotDecreasing.code,
        name=LossNotDecreasing.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(learning, kind),
        location=site_location(curve.site),
        first_step=int(curve.steps[0]),
        last_step=windows.last_step(recording),
        evidence=_evidence(learning),
        why="What the model has learned so far is worth no more than always giving the same answer."
        if learning.basis == "baseline"
        else "The optimizer's steps do not change the loss.",
        causes=(
            "Cause not identified: gradients reach the layers, parameters are in the optimizer, "
            "units are active, as far as it was recorded.",
            "Worth a look: the learning rate (far too high or too low), labels that do not belong "
            "to their inputs, inputs of a very large or small scale.",
        ),
        kind=kind,
    )


def _summary(learning: Learning, kind: str) -> str:
    steps = count(learning.steps, "step")
    if kind == "constant":
        return f"The loss is {number(learning.first)} on each of {steps}: nothing changes it."
    if kind == "diverged" and not math.isfinite(learning.last):
        return "The loss is no longer finite."
    if kind == "diverged":
        first, last = number(learning.first), number(learning.last)
        return f"The loss rises: from {first} to {last} over {steps}."
    return (
        f"The loss does not fall: {number(learning.last)} after {steps}, "
        f"{percent(learning.excess)} of what a constant answer costs; the cause is not identified."
    )


def _evidence(learning: Learning) -> tuple[Evidence, ...]:
    limit = DIVERGED if learning.state == "diverged" else STUCK
    rows = (
        Evidence("loss over that of a constant answer", learning.excess, "", limit),
        Evidence("mean of the first three losses", learning.first),
        Evidence("mean of the last losses", learning.last),
        Evidence("steps", float(learning.steps)),
    )
    return tuple(row for row in rows if not math.isnan(row.value))
