"""Another learning rate where the optimizer is built: its numbers, its title, its edit."""

from __future__ import annotations

import ast
import math

from gradscope.advise.fix import Change, Edits, Treatment
from gradscope.advise.loop import OptimizerCall, is_by_hand, optimizer_calls, uses_own_loop
from gradscope.advise.measures import rounded
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.treatments.steps import HandWrittenRate, Rate
from gradscope.recording.reader import Recording


def rate_change(recording: Recording, source: Source, times: float, cost: str) -> Change:
    """The change of the first optimizer's rate to ``times`` it.

    Args:
        recording: the run.
        source: the user's code.
        times: the new rate over the old one.
        cost: what it costs.
    """
    optimizers = recording.run.get("optimizers") or [{}]
    rates = optimizers[0].get("lr") or []
    known = float(rates[0]) if rates and math.isfinite(float(rates[0])) and rates[0] else None
    edits = Edits()
    calls = optimizer_calls(recording, source, 0)
    if len(calls) == 1:
        edits.add(calls[0].file, _edits(calls[0], known, times))
    new = rounded(known * times, 3) if known else None
    kind = optimizers[0].get("type", "the optimizer")
    verb = "lower" if times < 1 else "raise"
    by = f"{1 / times:g}" if times < 1 else f"{times:g}"
    to = f" from {known:g} to {new:g}" if known else f" by a factor of {by}"
    own = "; this run used gradscope's own loop" if uses_own_loop(recording) else ""
    return Change(
        title=f"{verb} the learning rate of {kind}{to}",
        applicability="may-change-results",
        cost=f"{cost}{own}",
        edits=edits,
        snippet=f"# where the optimizer is built{own}:\n"
        f"torch.optim.{kind if known else 'SGD'}(model.parameters(), "
        f"lr={f'{new:g}' if new else '...'})",
    )


def rate_treatment(recording: Recording, times: float, warm_up: int = 0) -> Treatment:
    """The same in a live training."""
    if is_by_hand(recording):
        return Treatment((HandWrittenRate(times, warm_up),))
    return Treatment((Rate(times, warm_up),))


def _edits(call: OptimizerCall, known: float | None, times: float) -> list[Edit]:
    file, node = call.file, call.rate
    if node is None:
        if known is None or not call.call.args:
            return []
        end = file.end(call.call.args[0])
        return [Edit(end, end, f", lr={rounded(known * times, 3):g}")]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = f"{rounded(node.value * times, 3):g}"
        return [Edit(file.start(node), file.end(node), value)]
    start, end = file.start(node), file.end(node)
    change = f" / {1 / times:g}" if times < 1 else f" * {times:g}"
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        return [Edit(end, end, change)]
    return [Edit(start, start, "("), Edit(end, end, f"){change}")]
