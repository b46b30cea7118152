"""loss-scaling: gradients are made large enough for float16 and divided again before the step."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import after_statement, before_statement, replaced
from gradscope.advise.loop import Update, updates
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.treatments.precision import LossScaling as Scaled
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

SCALE = 2.0**16
"""First scale of torch's GradScaler."""


class LossScaling(Remedy):
    """A GradScaler around backward and step."""

    name = "loss-scaling"
    answers: ClassVar[Mapping[str, int]] = {
        "GS202": 1,
        "GS202:skips": 0,
        "GS202:scale": 0,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """No scaler was seen."""
        if recording.steps["loss_scale"].notna().any():
            return None
        return (
            f"{lead(finding)}: float16 keeps nothing below 6e-8; times {SCALE:g} such a gradient "
            f"is held with all its digits"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Scale at backward, step through the scaler."""
        edits = Edits()
        found = updates(recording, source)
        device = str(recording.run.get("device") or "cpu").partition(":")[0]
        if len(found) == 1:
            edits.add(found[0].file, _edits(found[0], device))
        return Change(
            title="scale the loss with a GradScaler",
            applicability="may-change-results",
            cost="the first steps may be skipped while the scaler finds its scale; clipping needs "
            "scaler.unscale_(optimizer) before it",
            edits=edits,
            snippet='scaler = torch.amp.GradScaler("cuda")  # before the loop\n'
            "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Multiply before backward, divide before the step, leave out what overflows."""
        return Treatment((Scaled(SCALE),))


def _edits(update: Update, device: str) -> list[Edit]:
    """A scaler before the loop, around backward and step; none where one of them is not plain."""
    file, call = update.file, getattr(update.backward, "value", None)
    loop = next(
        (n for n in file.ancestors(update.step) if isinstance(n, ast.For | ast.While)), None
    )
    if loop is None or update.scaler is not None or "torch" not in file.bindings:
        return []
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return []
    loss = file.code(call.func.value)
    name = file.free_name("scaler", "grad_scaler")
    built = before_statement(file, loop, [f'{name} = torch.amp.GradScaler("{device}")'])
    moved = after_statement(file, update.step, [f"{name}.update()"])
    if not built or not moved or not loss.isidentifier():
        return []
    return [
        *built,
        replaced(file, call.func.value, f"{name}.scale({loss})"),
        replaced(file, update.step, f"{name}.step({update.optimizer})"),
        *moved,
    ]
