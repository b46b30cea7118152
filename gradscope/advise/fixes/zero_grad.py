"""zero-grad: gradients are cleared, so that a step does not use those of the steps before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import after_statement
from gradscope.advise.loop import is_by_hand, updates
from gradscope.advise.source import Source
from gradscope.advise.treatments.steps import ClearAfterHandWritten, ClearAfterStep
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class ZeroGrad(Remedy):
    """``optimizer.zero_grad()`` behind the step."""

    name = "zero-grad"
    answers: ClassVar[Mapping[str, int]] = {"GS501": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """No call of zero_grad was seen."""
        calls = int((recording.events["kind"] == "zero-grad").sum())
        if calls:
            return None
        steps = len(recording.steps)
        measured = lead(finding)
        return (
            f"{measured}: in {steps} steps no zero_grad was called, each gradient adds to the last"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Insert the call behind the step."""
        found = updates(recording, source)
        edits = Edits()
        if len(found) == 1:
            update = found[0]
            line = f"{update.optimizer}.zero_grad()"
            edits.add(update.file, after_statement(update.file, update.step, [line]) or [])
        return Change(
            title="clear the gradients after each step",
            applicability="exact",
            cost="none, unless gradients were meant to add up over steps",
            edits=edits,
            snippet="optimizer.step()\noptimizer.zero_grad()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Clear behind each step."""
        by_hand = is_by_hand(recording)
        return Treatment((ClearAfterHandWritten() if by_hand else ClearAfterStep(),))
