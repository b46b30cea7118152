"""clip-grad-norm: a bound on the total gradient norm, taken from the norms of this run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.insertion import before_statement
from gradscope.advise.loop import Update, optimizer_calls, updates, uses_own_loop
from gradscope.advise.measures import rounded, total_norms
from gradscope.advise.names import last_name, spelled
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.steps import Clip
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

FEWEST = 10
"""Steps before the finding from which a usual norm can be read; with fewer, all steps count."""


class ClipGradNorm(Remedy):
    """``clip_grad_norm_`` between backward and step, or a lower limit where there is one."""

    name = "clip-grad-norm"
    answers: ClassVar[Mapping[str, int]] = {
        "GS102": 5,
        "GS102:initialization": 0,
        "GS102:learning-rate": 2,
        "GS102:through-time": 1,
        "GS103": 1,
        "GS401": 2,
    }

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Norms were recorded, and some stand out."""
        norms = total_norms(recording)
        limit = _limit(finding, recording)
        if limit is None:
            return None
        share = float((norms > limit).mean())
        if share == 0:
            return None
        return (
            f"{lead(finding)}: the total gradient norm went from "
            f"{norms[0]:.3g} to at most {norms.max():.3g}; a limit of {limit:g} would have touched "
            f"{100 * share:.0f} % of the {len(norms)} recorded steps"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Insert the call before the step, or change the limit of the call that stands there."""
        limit = _limit(finding, recording)
        assert limit is not None
        edits = Edits()
        standing = _standing(source)
        found = updates(recording, source)
        if len(standing) == 1:
            edits.add(standing[0][0], _tightened(*standing[0], limit))
        elif not standing and len(found) == 1:
            edits.add(found[0].file, _inserted(recording, source, found[0], limit))
        own = not found and uses_own_loop(recording)
        note = "the loop of this run is gradscope's own: put it into yours" if own else ""
        verb = "lower the limit of" if standing else "clip the gradient with"
        return Change(
            title=f"{verb} clip_grad_norm_ at {limit:g}" if not standing
            else f"{verb} clip_grad_norm_ to {limit:g}",
            applicability="may-change-results",
            cost="; ".join(p for p in ("one norm over all gradients a step", note) if p),
            edits=edits,
            snippet="loss.backward()\n"
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={limit:g})\n"
            "optimizer.step()",
        )  # fmt: skip

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Clip just before the step."""
        limit = _limit(finding, recording)
        assert limit is not None
        return Treatment((Clip(limit),))


def _limit(finding: Finding, recording: Recording) -> float | None:
    """The median norm before things went wrong, else the lower quartile of all."""
    before = total_norms(recording, until=finding.first_step - 1)
    every = total_norms(recording)
    if not len(every):
        return None
    return rounded(float(np.median(before) if len(before) >= FEWEST else _quartile(every)))


def _quartile(norms: npt.NDArray[np.float64]) -> float:
    return float(np.quantile(norms, 0.25))


def _standing(source: Source) -> list[tuple[SourceFile, ast.Call]]:
    return [
        (file, call)
        for file in source.files.values()
        for call in file.calls
        if last_name(file, call) == "clip_grad_norm_"
    ]


def _tightened(file: SourceFile, call: ast.Call, limit: float) -> list[Edit]:
    named = [k.value for k in call.keywords if k.arg == "max_norm"]
    value = named[0] if named else (call.args[1] if len(call.args) > 1 else None)
    if not isinstance(value, ast.Constant) or not isinstance(value.value, int | float):
        return []
    return [Edit(file.start(value), file.end(value), f"{limit:g}")]


def _inserted(recording: Recording, source: Source, update: Update, limit: float) -> list[Edit]:
    file = update.file
    name, imports = spelled(file, "torch.nn.utils.clip_grad_norm_")
    what = _parameters(recording, source, update)
    lines = [f"{name}({what}, max_norm={limit:g})"]
    if update.scaler is not None and "unscale_" not in file.words:
        # the limit is for true gradients, not for those that the scaler multiplied
        lines.insert(0, f"{update.scaler}.unscale_({update.optimizer})")
    added = before_statement(file, update.step, lines)
    return [*imports, *added] if added is not None else []


def _parameters(recording: Recording, source: Source, update: Update) -> str:
    """``model.parameters()`` as the optimizer's call has it, else all that the optimizer holds."""
    built = [c for c in optimizer_calls(recording, source, 0) if c.file is update.file]
    same = [c for c in built if c.variable == update.optimizer]
    text = same[0].file.code(same[0].parameters) if same and same[0].parameters else ""
    scoped = same and _same_scope(update, same[0].call)
    if text.endswith(".parameters()") and scoped:
        return text
    return f'[p for group in {update.optimizer}.param_groups for p in group["params"]]'


def _same_scope(update: Update, call: ast.Call) -> bool:
    function = update.file.enclosing(call, ast.FunctionDef)
    return function is None or function is update.file.enclosing(update.step, ast.FunctionDef)
