"""GS303: all samples look the same to the layers behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Confidence, Evidence, Finding
from gradscope.diagnose.learning import DIVERGED, Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.rule import (
    Findings,
    Need,
    NotApplicable,
    Outcome,
    Passed,
    Rule,
    Undecided,
)
from gradscope.diagnose.spread import Stage, stages
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, count, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS303."""

    spread: float = 0.05
    """Spread of what the last layer reads; docs/why/terms_spikes_spread.md, "Spread": trainings
    that learn end at .25 and more, collapsed ones at .01 and less; this is the middle of both on a
    log scale. (docs/why/signals.md's .28 separates vanishing from healthy, not collapse.)"""
    sudden: float = 0.5
    """Share of the whole loss of spread (in decades) that makes one layer the cause. Ours: the
    majority, as in GS101."""


class CollapsedRepresentation(Rule):
    """All samples look the same to the layers behind."""

    code = "GS303"
    name = "collapsed-representation"
    title = "Different samples look the same inside the network"
    title_ok = "Different samples look different in every layer"
    family = "activations"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("activations.spread", 5, why="modules were looked at on too few steps, or with a "
             "batch of one sample"),
    )  # fmt: skip
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge what the last layer with weights reads; find where it collapsed."""
        found = stages(recording)
        if not any(stage.maker_id >= 0 for stage in found):
            if recording.count("modules") and _weight_layers(recording) < 2:
                return NotApplicable("fewer than two layers with weights were called")
            return Undecided("the spread over samples is not known for any hidden layer")
        last = found[-1]
        measured = (
            f"samples that {code(last.reader)} reads differ by {percent(last.spread)} of their size"
        )
        if last.spread >= options.spread:
            return Passed(
                last.spread / options.spread, f"{measured}, the limit is {percent(options.spread)}"
            )
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{measured}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"alike samples are a fault only if it does harm: {learning.reason}")
        return Findings((_finding(recording, options, found, learning),))


def _weight_layers(recording: Recording) -> int:
    parameters = recording.parameters
    matrix = parameters["shape"].map(lambda shape: len(shape or ()) >= 2)
    called = recording.modules.index[recording.modules["order"].notna()]
    return len({int(m) for m in parameters["module"][matrix]} & {int(m) for m in called})


def _finding(
    recording: Recording, options: Options, found: tuple[Stage, ...], learning: Learning
) -> Finding:
    at = _first_collapsed(found, options.spread)
    stage = found[at]
    kind = _kind(found, at, options)
    module = stage.maker if stage.maker_id >= 0 else stage.reader
    confidence: Confidence = "strong"
    # steps that threw the weights away collapse a network, too: then the steps are the cause
    if kind == "training" and learning.peak_excess > DIVERGED:
        confidence = "tentative"
    severity, confidence = judged("warning", confidence, learning)
    own = recording.parameters
    own = own[own["module_name"] == module]
    behind = [s.reader for s in found[at:]]
    return Finding(
        code=CollapsedRepresentation.code,
        name=CollapsedRepresentation.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(stage, kind, found),
        modules=(module,),
        parameters=tuple(str(name) for name in own["name"]),
        also=tuple(dict.fromkeys(name for name in behind if name != module)),
        location=location_of(recording, module),
        first_step=0 if stage.first_spread < options.spread else last_window_step(recording),
        last_step=windows.last_step(recording),
        evidence=_evidence(stage, found, options) + harm(learning),
        why=f"{why_harmful(learning)} A layer that reads almost the same numbers for every sample "
        f"can hardly tell the samples apart: its bias learns, its weights do not.",
        causes=_causes(kind),
        kind=kind,
    )


def last_window_step(recording: Recording) -> int:
    """The step at which the last window begins."""
    return int(windows.last_window(recording, "activations")[0])


def _first_collapsed(found: tuple[Stage, ...], limit: float) -> int:
    """First of the stages from which on all are below the limit."""
    at = len(found) - 1
    while at > 0 and found[at - 1].spread < limit:
        at -= 1
    return at


def _kind(found: tuple[Stage, ...], at: int, options: Options) -> str:
    stage = found[at]
    if stage.maker_id < 0:
        return "input"
    if not stage.first_spread < options.spread:
        return "training"
    if at and found[at - 1].spread > 0 and stage.spread > 0 and found[0].spread > 0:
        drop = math.log10(found[at - 1].spread / stage.spread)
        whole = math.log10(found[0].spread / stage.spread)
        if drop < options.sudden * whole:
            return "depth"
    return "initialization"


def _summary(stage: Stage, kind: str, found: tuple[Stage, ...]) -> str:
    if kind == "input":
        return (
            f"The inputs look all the same to {code(stage.reader)}: they differ by "
            f"{percent(stage.spread)} of their size."
        )
    more = len(found) - 1 - found.index(stage)
    rest = f", and in {count(more, 'layer')} after it" if more else ""
    return (
        f"Behind {code(stage.maker)} all samples look the same: they differ by "
        f"{percent(stage.spread)} of their size there{rest}."
    )


def _evidence(stage: Stage, found: tuple[Stage, ...], options: Options) -> tuple[Evidence, ...]:
    rows = (
        Evidence(f"spread over samples at {stage.reader}", stage.spread, "", options.spread),
        Evidence("the same in the first steps", stage.first_spread, "", options.spread),
        Evidence(f"spread over samples at {found[0].reader}", found[0].spread),
        Evidence(f"spread over samples at {found[-1].reader}", found[-1].spread),
    )
    return tuple({row.name: row for row in rows if not math.isnan(row.value)}.values())


def _causes(kind: str) -> tuple[str, ...]:
    return {
        "input": (
            "The inputs have an offset much larger than their differences: subtract the mean and "
            "divide by the standard deviation of each feature.",
        ),
        "training": (
            "Training drove the differences out: a learning rate that is too large, or a loss that "
            "a constant representation satisfies.",
        ),
        "depth": (
            "Every layer keeps an offset and shrinks the differences: weights that are too small, "
            "or activations with a mean far from 0, and no normalisation over the batch.",
        ),
        "initialization": (
            "Its bias is much larger than what its weights make of the inputs.",
            "Less likely: weights whose rows are all alike.",
        ),
    }[kind]
