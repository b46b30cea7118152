"""warm-up: the learning rate rises from nothing, so that the first steps throw nothing away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import after_statement
from gradscope.advise.layers import ATTENTION
from gradscope.advise.loop import optimizer_calls, updates, uses_own_loop
from gradscope.advise.rate_change import rate_treatment
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

SHARE = 0.2
"""Of the observed steps; at most ``MOST``. Transformers warm up over the first few per cent of a
training of 1e5 steps (Vaswani et al. 2017: 4,000), and a trial is a short one."""
MOST = 1_000


class WarmUp(Remedy):
    """A linear warm-up of the learning rate."""

    name = "warm-up"
    answers: ClassVar[Mapping[str, int]] = {"GS102:learning-rate": 3, "GS401": 3}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Attention, or an optimizer whose first steps all have full length."""
        adaptive = "Adam" in str((recording.run.get("optimizers") or [{}])[0].get("type"))
        if not adaptive and not source.layers.has_any(ATTENTION):
            return None
        return (
            f"{lead(finding)}: the first steps have full length while the optimizer's averages are "
            f"still those of a few batches; over {_steps(recording)} steps the rate rises instead"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """A LambdaLR behind the optimizer, moved after each step."""
        steps = _steps(recording)
        edits = Edits()
        calls = optimizer_calls(recording, source, 0)
        found = updates(recording, source)
        if (
            len(calls) == 1
            and len(found) == 1
            and calls[0].variable
            and "scheduler" not in calls[0].file.words
        ):
            file, name = calls[0].file, calls[0].variable
            built = after_statement(file, file.statement(calls[0].call), [
                f"scheduler = torch.optim.lr_scheduler.LambdaLR("
                f"{name}, lambda step: min(1.0, (step + 1) / {steps}))"
            ])  # fmt: skip
            moved = after_statement(found[0].file, found[0].step, ["scheduler.step()"])
            if built and moved and "torch" in file.bindings and found[0].file is file:
                edits.add(file, [*built, *moved])
        own = "; this run used gradscope's own loop" if uses_own_loop(recording) else ""
        return Change(
            title=f"let the learning rate rise linearly over the first {steps} steps",
            applicability="may-change-results",
            cost=f"the first steps train less{own}",
            edits=edits,
            snippet="scheduler = torch.optim.lr_scheduler.LambdaLR(\n"
            f"    optimizer, lambda step: min(1.0, (step + 1) / {steps})\n"
            ")\n# after each optimizer.step():\nscheduler.step()",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Step with the risen part of the rate; over a third of a trial, which is short."""
        return rate_treatment(recording, 1.0, warm_up=20)


def _steps(recording: Recording) -> int:
    return max(10, min(MOST, round(SHARE * len(recording.steps))))
