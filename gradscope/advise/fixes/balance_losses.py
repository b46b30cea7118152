"""balance-losses: the term of the loss that drowns gets a weight."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.measures import rounded
from gradscope.advise.names import resolved
from gradscope.advise.patch import Edit
from gradscope.advise.source import Source
from gradscope.advise.source_file import SourceFile
from gradscope.advise.treatments.balance import WeightTerm
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_CALLED = {
    "cross_entropy": "cross_entropy",
    "nll": "nll_loss",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "kl_div": "kl_div",
}


class BalanceLosses(Remedy):
    """``a + b`` becomes ``a + w * b``, w from the measured gradients."""

    name = "balance-losses"
    answers: ClassVar[Mapping[str, int]] = {"GS106": 1}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The ratio of the terms' gradients was measured."""
        weight = _weight(finding)
        if weight is None:
            return None
        return f"{lead(finding)}: times {weight:g} the weaker term pulls as hard as the stronger"

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Write the factor in front of the call of the loss."""
        weight, name = _weight(finding), _operation(finding)
        edits = Edits()
        found = _call(recording, source, name)
        if found is not None:
            file, call = found
            edits.add(file, [Edit(file.start(call), file.start(call), f"{weight:g} * ")])
        return Change(
            title=f"multiply the term {name} of the loss by {weight:g}",
            applicability="may-change-results",
            cost="the loss gets another scale; the weight that serves the task best may differ",
            edits=edits,
            snippet=f"loss = strong_term + {weight:g} * weak_term",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Multiply what the call gives."""
        weight, name = _weight(finding), _operation(finding)
        places = _places(recording, name)
        if len(places) != 1:
            return Treatment(untried=f"{len(places)} lines call {name}: which one is not known")
        file, line = places[0]
        assert weight is not None
        return Treatment((WeightTerm(file, (line,), name, weight),))


def _weight(finding: Finding) -> float | None:
    ratio = finding.evidence[0].value if finding.evidence else 0.0
    return rounded(ratio, 1) if 1 < ratio < float("inf") else None


def _operation(finding: Finding) -> str:
    weak = finding.kind.rpartition("-over-")[2]
    return _CALLED.get(weak, weak)


def _places(recording: Recording, name: str) -> list[tuple[str, int]]:
    frame = recording.examined
    rows = frame[(frame["kind"] == "loss") & (frame["operation"] == name)]
    rows = rows[rows["file"].notna() & rows["line"].notna()]
    found = zip(rows["file"], rows["line"], strict=True)
    return list(dict.fromkeys((str(file), int(line)) for file, line in found))


def _call(recording: Recording, source: Source, name: str) -> tuple[SourceFile, ast.Call] | None:
    places = _places(recording, name)
    at = source.place(*places[0]) if len(places) == 1 else None
    if at is None:
        return None
    calls = [
        c for c in at[0].calls_at(at[1]) if (resolved(at[0], c.func) or "").endswith(f".{name}")
    ]
    return (at[0], calls[0]) if len(calls) == 1 else None
