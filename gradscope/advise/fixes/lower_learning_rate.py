"""lower-learning-rate: smaller steps, by how much this run's updates were too large."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, lead
from gradscope.advise.loop import OptimizerCall, optimizer_calls, uses_own_loop
from gradscope.advise.measures import USUAL_UPDATE, rate_factor, rounded, update_ratio
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


class LowerLearningRate(Remedy):
    """Divide the optimizer's learning rate by a power of ten."""

    name = "lower-learning-rate"
    answers: ClassVar[Mapping[str, int]] = {
        "GS102": 4,
        "GS102:learning-rate": 1,
        "GS102:through-time": 2,
        # units that were dead from the start are no matter of the rate
        "GS301:learning-rate": 1,
        "GS401": 1,
        "GS505": 3,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """A rate that the finding blames, or updates far above the usual size."""
        # half-dead layers alone do not blame the rate: a loss that still falls would fall slower
        if finding.code == "GS301" and finding.severity == "note":
            return None
        ratio = update_ratio(recording, finding)
        blamed = finding.kind in ("learning-rate", "through-time") or finding.code == "GS401"
        if not blamed and (ratio is None or ratio <= 10 * USUAL_UPDATE):
            return None
        measured = lead(finding)
        if ratio is None:
            return f"{measured}: steps of this size threw the weights away"
        return (
            f"{measured}: each step changed a weight by {100 * ratio:.2g} % of its size (worst "
            f"weight, median of the first steps); a step that trains changes it by about "
            f"{100 * USUAL_UPDATE:g} %"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change ``lr`` where the optimizer is built."""
        factor = rate_factor(update_ratio(recording, finding))
        optimizers = recording.run.get("optimizers") or [{}]
        rates = optimizers[0].get("lr") or []
        known = float(rates[0]) if rates else None
        edits = Edits()
        calls = optimizer_calls(recording, source, 0)
        if len(calls) == 1:
            edits.add(calls[0].file, _edits(calls[0], known, factor))
        new = rounded(known / factor, 3) if known else None
        kind = optimizers[0].get("type", "the optimizer")
        to = f" from {known:g} to {new:g}" if known else f" by a factor of {factor:g}"
        own = "; this run used gradscope's own loop" if uses_own_loop(recording) else ""
        return Change(
            title=f"lower the learning rate of {kind}{to}",
            applicability="may-change-results",
            cost=f"training may need more steps; a schedule's later values fall with it{own}",
            edits=edits,
            snippet=f"# where the optimizer is built{own}:\n"
            f"torch.optim.{kind if known else 'SGD'}(model.parameters(), "
            f"lr={f'{new:g}' if new else '...'})",
        )


def _edits(call: OptimizerCall, known: float | None, factor: float) -> list[Edit]:
    file, node = call.file, call.rate
    if node is None:
        if known is None or not call.call.args:
            return []
        end = file.end(call.call.args[0])
        return [Edit(end, end, f", lr={rounded(known / factor, 3):g}")]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = f"{rounded(node.value / factor, 3):g}"
        return [Edit(file.start(node), file.end(node), value)]
    start, end = file.start(node), file.end(node)
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        return [Edit(end, end, f" / {factor:g}")]
    return [Edit(start, start, "("), Edit(end, end, f") / {factor:g}")]
