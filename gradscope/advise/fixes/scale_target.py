"""scale-target: what is to be predicted gets mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.measures import rounded
from gradscope.advise.names import resolved
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.treatments.functions import ScaleTarget as Scaled
from gradscope.diagnose.entering import target_scale
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_LOSSES = tuple(f"torch.nn.functional.{n}" for n in ("mse_loss", "l1_loss", "smooth_l1_loss"))


class ScaleTarget(Remedy):
    """Subtract the targets' mean and divide by their spread before the loss."""

    name = "scale-target"
    answers: ClassVar[Mapping[str, int]] = {"GS504:target": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The targets' scale was recorded."""
        scale = target_scale(recording)
        if scale is None or not scale.std > 0:
            return None
        return (
            f"{lead(finding)}: a fresh model answers with numbers about 0 and 1, so the whole "
            f"training goes into reaching a mean of {scale.mean:.3g}"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Scale the target in the loss call, where there is exactly one."""
        mean, spread = _numbers(recording)
        minus = f"- {mean:g}" if mean >= 0 else f"+ {-mean:g}"
        edits = Edits()
        calls = [
            (file, call)
            for file in source.files.values()
            for call in file.calls
            if resolved(file, call.func) in _LOSSES and len(call.args) == 2
        ]
        if len(calls) == 1:
            file, call = calls[0]
            start, end = file.start(call.args[1]), file.end(call.args[1])
            edits.add(file, [Edit(start, start, "("), Edit(end, end, f" {minus}) / {spread:g}")])
        return Change(
            title=f"scale the targets from mean {mean:g} and spread {spread:g} to 0 and 1",
            applicability="may-change-results",
            cost="the model's answers are in the new unit: multiply by the spread and add the mean "
            "where they are used; mean and spread are those of this run's batches",
            edits=edits,
            snippet=f"target = (target {minus}) / {spread:g}  # before the loss",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Scale what the loss compares with; losses are noted in the old unit."""
        mean, spread = _numbers(recording)
        return Treatment((Scaled(mean, spread),))


def _numbers(recording: Recording) -> tuple[float, float]:
    scale = target_scale(recording)
    assert scale is not None
    return rounded(scale.mean, 3), rounded(scale.std, 3)
