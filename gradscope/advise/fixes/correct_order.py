"""correct-order: backward, clip, step, zero_grad, in this order."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import after_statement, before_statement, removed
from gradscope.advise.loop import Update, updates
from gradscope.advise.names import last_name
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.steps import CorrectOrder as Ordered
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class CorrectOrder(Remedy):
    """Move the call that stands in the wrong place."""

    name = "correct-order"
    answers: ClassVar[Mapping[str, int]] = {"GS506": 1, "GS501": 2}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The order was seen."""
        if finding.code == "GS501" and not (recording.events["kind"] == "zero-grad").any():
            return None
        return (
            f"{lead(finding)}: a step has to see the gradients of its own batch, all of them and "
            f"only them"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Move zero_grad behind the step, or the clip in front of it."""
        edits = Edits()
        found = updates(recording, source)
        if len(found) == 1:
            edits = _moved(finding, found[0])
        title = {
            "cleared": "clear the gradients after the step, not before it",
            "no-backward": "make one step for each backward",
            "clip-after-step": "clip before the step",
            "clip-before-backward": "clip after backward",
            "clip-before-unscale": "unscale before clipping",
        }.get(finding.kind, "clear the gradients after each step")
        return Change(
            title=title,
            applicability="exact",
            cost="none",
            edits=edits,
            snippet="loss.backward()\n# clip here, if at all\noptimizer.step()\n"
            "optimizer.zero_grad()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Leave out, hide and add what makes the order right."""
        if not recording.run.get("optimizers"):
            return Treatment(untried="the update is written by hand: nothing tells where it ends")
        if finding.kind == "clip-before-unscale":
            return Treatment(untried="the scaler's calls are not rearranged in a trial")
        limit = None
        if finding.kind.startswith("clip"):
            events = recording.events
            limits = events.loc[events["kind"] == "clip", "limit"].dropna().to_numpy(float)
            limit = float(np.median(limits)) if len(limits) else None
        return Treatment((Ordered(limit),))


def _moved(finding: Finding, update: Update) -> Edits:
    edits, file = Edits(), update.file
    block = file.block(update.step)
    wanted = "zero_grad" if finding.kind == "cleared" else "clip_grad_norm_"
    if not (finding.kind == "cleared" or finding.kind.startswith("clip")):
        return edits
    if finding.kind == "clip-before-unscale":
        return edits
    calls = [s for s in block if _called(file, s) == wanted]
    if len(calls) != 1 or calls[0] is update.step:
        return edits
    code = file.code(calls[0])
    gone = removed(file, calls[0])
    put = (
        after_statement(file, update.step, [code])
        if wanted == "zero_grad"
        else before_statement(file, update.step, [code])
    )
    if gone is not None and put is not None:
        edits.add(file, [*gone, *put])
    return edits


def _called(file: SourceFile, statement: ast.stmt) -> str | None:
    value = getattr(statement, "value", None)
    if not isinstance(statement, ast.Expr | ast.Assign) or not isinstance(value, ast.Call):
        return None
    return last_name(file, value)
