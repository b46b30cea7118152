"""GS302: an activation works where it is flat."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.learning import FREQUENCY_LOSSES, Learning, gate, loss_curve
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
from gradscope.diagnose.slope_window import SlopeWindow, slope_windows
from gradscope.diagnose.trained import ParameterState, parameter_states
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, count, listing, percent
from gradscope.recording.reader import Recording

RECURRENT = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS302."""

    slope: float = 0.26
    """Mean slope of a layer, 1 = the largest; docs/why/signals.md: lowest layer below .26 finds
    .57 of saturated trainings behind the gate with no false alarm; alone .117 of the healthy."""
    unit_slope: float = 0.2
    """Mean slope below which a unit counts as flat; the limit of the recommended order there."""
    share: float = 0.6
    """Share of flat units for a warning; the limit of the recommended order there."""
    batches: int = 20
    """Sampled batches in the window, as for dead units (docs/why/signals.md, "Units")."""


class SaturatedActivation(Rule):
    """An activation works where it is flat."""

    code = "GS302"
    name = "saturated-activation"
    title = "An activation is saturated"
    title_ok = "Activations work where they are steep"
    family = "activations"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("activations", 1, why="modules were not looked at, or are compiled"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge each sigmoid, tanh and hard variant; one finding for the first saturated layer."""
        found = [w for w in slope_windows(recording, options.unit_slope) if w.units]
        found = [w for w in found if not _answers_frequencies(recording, w)]
        if not found:
            return _nothing(recording)
        ready = [w for w in found if w.batches >= options.batches]
        if not ready:
            most = max(w.batches for w in found)
            return Undecided(f"units were looked at in {most} batches, {options.batches} needed")
        worst = min(ready, key=lambda w: w.slope)
        measured = (
            f"the lowest mean slope is {percent(worst.slope)} of the largest ({_name(worst)})"
        )
        flat = [w for w in ready if w.slope < options.slope]
        if not flat:
            return Passed(
                worst.slope / options.slope, f"{measured}, the limit is {percent(options.slope)}"
            )
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{measured}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"saturation is a fault only if it does harm: {learning.reason}")
        return Findings((_finding(recording, options, flat, learning),))


def _nothing(recording: Recording) -> Outcome:
    modules = recording.modules
    inside = [str(n) for n in modules["name"][modules["torch_type"].isin(RECURRENT)]]
    if inside:
        return Undecided(
            f"the gates inside {listing(inside)} cannot be seen from outside, and no other "
            f"activation that saturates was seen"
        )
    return NotApplicable("no activation that saturates (sigmoid, tanh, hardtanh) was seen")


def _answers_frequencies(recording: Recording, window: SlopeWindow) -> bool:
    """Whether it gives probabilities to a loss that undoes its slope: rare classes belong there."""
    if window.functional:
        return False
    last = recording.modules["order"].dropna()
    is_last = len(last) > 0 and window.order >= float(last.max())
    return is_last and loss_curve(recording).operation in FREQUENCY_LOSSES


def _name(window: SlopeWindow) -> str:
    return f"before {code(window.module)}" if window.functional else code(window.module)


def _finding(
    recording: Recording, options: Options, flat: list[SlopeWindow], learning: Learning
) -> Finding:
    severe = [w for w in flat if w.flat >= options.share]
    cause = (severe or flat)[0]
    since_start = cause.first_slope < options.slope
    feeder = _feeder(recording, cause)
    module = feeder[0].module if feeder and cause.functional else cause.module
    severity, confidence = judged("warning" if severe else "note", "strong", learning)
    names = dict.fromkeys([s.module for s in feeder] + [w.module for w in flat])
    units = round(cause.flat * cause.units)
    more = f"; so are {count(len(flat) - 1, 'further layer')}" if len(flat) > 1 else ""
    return Finding(
        code=SaturatedActivation.code,
        name=SaturatedActivation.name,
        severity=severity,
        confidence=confidence,
        summary=f"{'The activation ' if cause.functional else ''}{_name(cause)} is saturated"
        f"{' since the first step' if since_start else ''}: its mean slope is "
        f"{percent(cause.slope)} of the largest, {units} of {cause.units} units are flat{more}.",
        modules=(module,),
        parameters=tuple(s.name for s in feeder),
        also=tuple(name for name in names if name != module),
        location=location_of(recording, module),
        first_step=0 if since_start else cause.first_step,
        last_step=cause.last_step,
        evidence=(
            Evidence("mean slope over the largest", cause.slope, "", options.slope),
            Evidence("the same in the first steps", cause.first_slope, "", options.slope),
            Evidence("share of flat units", cause.flat, "", options.share),
            Evidence("batches looked at", float(cause.batches), "", float(options.batches)),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} Where an activation is flat it passes on "
        f"{percent(cause.slope)} of the gradient, so the layers before it hardly move.",
        causes=_causes(since_start, feeder),
        kind="initialization" if since_start else "learning-rate",
    )


def _feeder(recording: Recording, window: SlopeWindow) -> list[ParameterState]:
    """Parameters of the weight layer whose result the activation gets: the one called before it."""
    before = [
        s for s in parameter_states(recording)
        if s.matrix and s.order is not None and s.order < window.order
    ]  # fmt: skip
    if not before:
        return []
    owner = max(before, key=lambda s: s.order if s.order is not None else -1).module
    return [s for s in parameter_states(recording) if s.module == owner]


def _causes(since_start: bool, feeder: list[ParameterState]) -> tuple[str, ...]:
    names = listing([s.name for s in feeder]) if feeder else "the layer before it"
    start = f"{names} begin too large, or the inputs have too large a scale."
    rate = f"Steps that were too large made {names} grow."
    if since_start:
        return (start, "Less likely: the learning rate, since it was flat before that could act.")
    return (rate, "Less likely: the initialisation, since it was steep at first.")
