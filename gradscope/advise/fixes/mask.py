"""mask: what must not take part is masked by a finite number, or left out of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.numerics import Operation, clamped, operations, shown_at
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.treatments.functions import Clamp, ZeroInfinity
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_OVER_A_ROW = ("softmax", "log_softmax", "logsumexp")
FLOOR = "-1e4"
"""exp(-1e4) is 0 in every format, and float16 holds -1e4 itself (its largest number is 65504)."""
_DROP = (
    "keep = torch.isfinite(inputs).flatten(1).all(dim=1)\n"
    "inputs, targets = inputs[keep], targets[keep]"
)


class Mask(Remedy):
    """``scores.softmax(1)`` becomes ``scores.clamp(min=-1e4).softmax(1)``."""

    name = "mask"
    answers: ClassVar[Mapping[str, int]] = {"GS201": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """A row of a softmax is masked entirely, a CTC target is too long, or data hold it."""
        origin = finding.origin
        if origin is None:
            return None
        measured = origin.reason or lead(finding)
        if origin.phase == "input":
            return f"{measured}: no change of the model mends a sample that is not finite"
        if origin.operation in _OVER_A_ROW:
            return (
                f"{measured}: a row in which everything is -inf has no maximum, and 0 divided by 0 "
                f"is what is left of it; with {FLOOR} in place of -inf masked entries still get "
                "weight 0, and a row that is masked entirely gets equal weights"
            )
        if origin.operation == "ctc_loss":
            return (
                f"{measured}: no path fits a target that is longer than its input, so its loss is "
                "infinite; zero_infinity masks such samples"
            )
        return None

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Clamp the scores, set ``zero_infinity``, or show how to drop samples."""
        origin = finding.origin
        assert origin is not None
        if origin.phase == "input":
            return Change(
                title="leave samples that hold a NaN or an Inf out of the batch, and find out "
                "where they come from",
                applicability="placeholders",
                cost="they are not trained on",
                snippet=_DROP,
            )
        edits = Edits()
        found = operations(finding, source, (*_OVER_A_ROW, "ctc_loss"))
        if origin.operation == "ctc_loss":
            for operation in found:
                edits.add(operation.file, _zero_infinity(operation))
            return Change(
                title=f"set zero_infinity=True in {shown_at(finding)}",
                applicability="may-change-results",
                cost="samples whose target is too long are not trained on",
                edits=edits,
                snippet="torch.nn.CTCLoss(zero_infinity=True)",
            )
        for operation in found:
            edits.add(operation.file, clamped(operation, f"min={FLOOR}"))
        return Change(
            title=f"mask with {FLOOR} in place of -inf in what {shown_at(finding)} reads",
            applicability="may-change-results",
            cost="none where a row has something left; else its weights are equal",
            edits=edits,
            snippet=f"scores.clamp(min={FLOOR}).{origin.operation}(dim=-1)",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Clamp or mask on the recorded line; samples cannot be left out by a trial."""
        origin = finding.origin
        assert origin is not None
        if origin.phase == "input":
            return Treatment(
                untried="only the code that loads the data can leave samples out of inputs and "
                "targets alike"
            )
        if origin.location is None:
            return Treatment(untried="the line of the operation is not known")
        file, lines = origin.location.file, (origin.location.line,)
        if origin.operation == "ctc_loss":
            return Treatment((ZeroInfinity(file, lines, origin.operation),))
        return Treatment((Clamp(file, lines, origin.operation, float(FLOOR), None),))


def _zero_infinity(operation: Operation) -> list[Edit]:
    call, file = operation.node, operation.file
    keywords = getattr(call, "keywords", [])
    if any(keyword.arg == "zero_infinity" for keyword in keywords):
        return []
    end = file.end(call) - 1
    comma = "" if file.text[:end].rstrip().endswith(",") else ", "
    return [Edit(end, end, f"{comma}zero_infinity=True")]
