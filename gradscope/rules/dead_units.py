"""GS301: units of an activation that are never active."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.learning import Learning, gate
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
from gradscope.diagnose.trained import ParameterState, parameter_states
from gradscope.diagnose.unit_owner import unit_owner
from gradscope.diagnose.unit_window import (
    UnitWindow,
    functional_activations,
    unit_windows,
)
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, count, listing, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS301."""

    warning_share: float = 0.9
    """Share of a layer's units; docs/why/signals.md, "Units": at least 90 % for a warning."""
    note_share: float = 0.5
    """At least half for a note: with 20 steps 3 % of healthy ReLU runs have such a layer."""
    batches: int = 20
    """Sampled batches in the window; docs/why/signals.md: with one batch 41 % of healthy runs have
    a layer with more than 10 % dead units, with 20 it is 15 %."""
    positions: int = 1_000
    """Values seen for each unit: a unit that is active for 1 sample in 200 is missed with a chance
    of 0.7 % then. Ours."""
    whole_batches: int = 5
    """Sampled batches that are enough where no unit of a layer was ever active, and the
    layer has at least ``whole_units``: units that are active now and then are not all off in each
    of them. Ours."""
    whole_units: int = 8


class DeadUnits(Rule):
    """Units that are never active."""

    code = "GS301"
    name = "dead-units"
    title = "Most units of a layer are dead"
    title_ok = "Units are active"
    family = "activations"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("activations", 1, why="modules were not looked at, or are compiled"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge each activation over its window; one finding for the first dead layer."""
        found = unit_windows(recording, options.positions)
        if not found:
            unread = functional_activations(recording)
            if unread:
                return Undecided(
                    f"{unread} is called as a function, and no layer that reads its result as it "
                    f"is was looked at: use a module in its place, as nn.ReLU(), to see its units"
                )
            return NotApplicable("no activation that can die (ReLU, GELU, SiLU, ELU) was seen")
        ready = [w for w in found if _enough(w, options)]
        if not ready:
            most = max(found, key=lambda w: w.batches)
            return Undecided(
                f"units were looked at in {most.batches} batches and {most.positions:,} positions, "
                f"{options.batches} and {options.positions:,} are needed"
            )
        dead = [w for w in ready if w.dead_share >= options.note_share]
        worst = max(ready, key=lambda w: w.dead_share)
        measured = (
            f"at most {percent(worst.dead_share)} of a layer's units are dead "
            f"({code(_name(recording, worst))})"
        )
        if not dead:
            margin = options.note_share / worst.dead_share if worst.dead else None
            return Passed(margin, f"{measured}, the limit is {percent(options.note_share)}")
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{measured}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"dead units are a fault only if they do harm: {learning.reason}")
        return Findings((_finding(recording, options, dead, learning),))


def _enough(window: UnitWindow, options: Options) -> bool:
    whole = window.dead == window.units >= options.whole_units
    if whole and window.batches >= options.whole_batches:
        return True
    return window.batches >= options.batches and window.positions >= options.positions


def _name(recording: Recording, window: UnitWindow) -> str:
    """The activation, or where it is a function the layer whose units it shows."""
    owner = unit_owner(recording, window.module_id) if window.functional else None
    return window.module if owner is None else owner


def _finding(
    recording: Recording, options: Options, dead: list[UnitWindow], learning: Learning
) -> Finding:
    # the first layer that is beyond the warning limit is the cause: what follows gets a constant
    severe = [w for w in dead if w.dead_share >= options.warning_share]
    cause = (severe or dead)[0]
    limit = options.warning_share if severe else options.note_share
    states = parameter_states(recording)
    owner = unit_owner(recording, cause.module_id)
    feeder = [state for state in states if state.module == owner]
    module = (feeder[0].module if feeder else cause.module) if cause.functional else cause.module
    kind = "initialization" if cause.since_start else "learning-rate"
    if severe and _is_last(recording, cause):
        kind = "output"
    worst: Severity = "critical" if cause.dead == cause.units else "warning"
    severity, confidence = judged(worst if severe else "note", "strong", learning)
    names = dict.fromkeys([s.module for s in feeder] + [_name(recording, w) for w in dead])
    least = options.batches if cause.batches >= options.batches else options.whole_batches
    return Finding(
        code=DeadUnits.code,
        name=DeadUnits.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(recording, cause, kind, dead),
        modules=(module,),
        parameters=tuple(s.name for s in feeder),
        also=tuple(name for name in names if name != module),
        location=location_of(recording, module),
        first_step=0 if cause.since_start else cause.first_step,
        last_step=cause.last_step,
        evidence=(
            Evidence("share of dead units", cause.dead_share, "", limit),
            Evidence("dead units", float(cause.dead), f"of {cause.units}"),
            Evidence("of these dead in the first steps", float(cause.dead_from_start), "units"),
            Evidence("batches looked at", float(cause.batches), "", float(least)),
            Evidence(
                "values seen for each unit",
                float(cause.positions),
                "",
                options.positions if cause.positions >= options.positions else None,
            ),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} A dead unit passes on no signal and no gradient: the weights "
        f"before it cannot move, so it stays dead.",
        causes=_causes(kind, feeder),
        kind=kind,
    )


def _is_last(recording: Recording, window: UnitWindow) -> bool:
    orders = recording.modules["order"].dropna()
    own = recording.modules["order"].get(window.module_id)
    return not window.functional and len(orders) > 0 and own == orders.max()


def _summary(recording: Recording, cause: UnitWindow, kind: str, dead: list[UnitWindow]) -> str:
    who = f"{cause.dead} of {cause.units} units ({percent(cause.dead_share)})"
    if cause.dead == cause.units:
        who = "The only unit" if cause.units == 1 else f"All {cause.units:,} units"
    of = f"{who} of {code(_name(recording, cause))}{', the output,' if kind == 'output' else ''}"
    one = cause.dead == cause.units == 1
    names = dict.fromkeys(_name(recording, window) for window in dead if window is not cause)
    others = f"most units of {listing(list(names))}" if names else ""
    batches = f"{count(cause.batches, 'batch', 'batches')} switched {'it' if one else 'them'} on"
    if cause.since_start:
        more = f", and so are {others}" if names else ""
        state = f"{'is' if one else 'are'} dead from the first step on"
        return f"{of} {state}{more}: no input in {batches}."
    more = f", and so did {others}" if names else ""
    return f"{of} died in training{more}: no input in the last {batches}."


def _causes(kind: str, feeder: list[ParameterState]) -> tuple[str, ...]:
    names = listing([s.name for s in feeder]) if feeder else "the layer before it"
    start = f"{names} begin at values that keep the activation's input on its flat side."
    rate = "A step that was too large threw the weights before it to where no input activates them."
    if kind == "learning-rate":
        return (rate, "Less likely: the initialisation, since the units were active at first.")
    if kind == "output":
        return (f"An activation behind the last layer can only give its flat value. {start}",)
    return (start, "Less likely: the learning rate, since the units were dead before it could act.")
