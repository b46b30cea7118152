"""loosen-clipping: a limit for the rare large gradients, taken from the norms of this run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.measures import rounded, total_norms
from gradscope.advise.names import last_name
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.steps import LoosenClip
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

QUANTILE = 0.9
"""Share of the recorded steps that the new limit leaves as they are."""


class LoosenClipping(Remedy):
    """A higher limit in the ``clip_grad_norm_`` that stands in the loop."""

    name = "loosen-clipping"
    answers: ClassVar[Mapping[str, int]] = {"GS502": 1, "GS402": 2}

    def __init__(self, times: float = 1.0) -> None:
        """Make one with ``times`` the measured limit."""
        self.times = times

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """Clipping was seen, and it cuts more than one step in ten."""
        new, old = _limit(recording), _standing_limit(recording)
        if new is None or old is None or new <= old:
            return None
        norms = total_norms(recording)
        cut, left = float((norms > old).mean()), float((norms > new).mean())
        return (
            f"{lead(finding)}: the limit of {old:g} cut {100 * cut:.0f} % of the {len(norms)} "
            f"recorded steps, one of {new:g} would cut {100 * left:.0f} %"
        )

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """Ten times the limit, too: where a training stands still its norms say little."""
        return (self, LoosenClipping(10.0))

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Change the number in the call."""
        new, old = _limit(recording, self.times), _standing_limit(recording)
        assert new is not None
        edits = Edits()
        calls = [
            (file, call)
            for file in source.files.values()
            for call in file.calls
            if last_name(file, call) == "clip_grad_norm_"
        ]
        if len(calls) == 1:
            edits.add(calls[0][0], _edit(*calls[0], new))
        return Change(
            title=f"raise the limit of clip_grad_norm_ from {old:g} to {new:g}",
            applicability="may-change-results",
            cost="one of ten steps is still cut; a lower learning rate may be needed with it",
            edits=edits,
            snippet=f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={new:g})",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The new limit in every clipping call."""
        new = _limit(recording, self.times)
        assert new is not None
        return Treatment((LoosenClip(new),))


def _limit(recording: Recording, times: float = 1.0) -> float | None:
    norms = total_norms(recording)
    return rounded(times * float(np.quantile(norms, QUANTILE))) if len(norms) else None


def _standing_limit(recording: Recording) -> float | None:
    limits = recording.steps["clip_limit"].dropna().to_numpy(float)
    return float(np.median(limits)) if len(limits) else None


def _edit(file: SourceFile, call: ast.Call, limit: float) -> list[Edit]:
    named = [k.value for k in call.keywords if k.arg == "max_norm"]
    value = named[0] if named else (call.args[1] if len(call.args) > 1 else None)
    if value is None:
        return []
    return [Edit(file.start(value), file.end(value), f"{limit:g}")]
