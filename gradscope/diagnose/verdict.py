"""How sure and how bad: the common part of every rule that stands behind the harm gate."""

from __future__ import annotations

import math

from gradscope.diagnose.finding import Confidence, Evidence, Severity
from gradscope.diagnose.learning import Learning
from gradscope.diagnose.wording import count


def judged(
    severity: Severity, confidence: Confidence, learning: Learning
) -> tuple[Severity, Confidence]:
    """Severity and confidence after what the gate allows.

    Before 50 steps nothing behind the gate is more than a note; a tentative finding never is. A
    verdict that rests on the trend of the loss alone, without a trivial baseline, is tentative.
    """
    if learning.basis != "baseline" and not (learning.constant or learning.state == "diverged"):
        confidence = "tentative"
    if learning.so_far or confidence == "tentative":
        severity = "note"
    return severity, confidence


def harm(learning: Learning) -> tuple[Evidence, ...]:
    """The gate's number as evidence; empty where the trivial loss is not known."""
    if not math.isfinite(learning.excess):
        return ()
    return (Evidence("loss over that of a constant answer", learning.excess, "", learning.limit),)


def why_harmful(learning: Learning) -> str:
    """The gate's reason as a sentence, with "so far" where it is early."""
    sentence = learning.reason[:1].upper() + learning.reason[1:]
    if learning.so_far:
        return f"{sentence} (so far: {count(learning.steps, 'step')})."
    return f"{sentence}, after {count(learning.steps, 'step')}."
