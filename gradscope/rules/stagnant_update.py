"""GS203: updates that are too small to change the parameter's number."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.diagnose.finding import Confidence, Evidence, Finding, Severity
from gradscope.diagnose.formats import DIGITS
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.precedence import MOST, OUTSIDE
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.stagnation import Movement, movements
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import count, listing, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS203."""

    least_steps: int = 5
    """Sampled steps with a gradient before "unchanged" is said; docs/why/signals.md, "Two
    questions": the certainty was measured over at least 5 steps."""
    moved: float = 0.2
    """Share of a 16-bit tensor's elements with a gradient that change in a step: below it bfloat16
    trainings lost most of what their float32 twins learned (docs/why/precision.md)."""
    everything: float = 0.9
    """Share of the held elements above which nothing is trained, whatever the loss. Ours."""


class StagnantUpdate(Rule):
    """Updates below half a unit in the last place: the sum is the old number."""

    code = "GS203"
    name = "stagnant-update"
    title = "Updates are too small to change the parameters"
    title_ok = "Updates change the parameters"
    family = "numerics"
    severity = "warning"
    since = "0.1.0"
    needs = (Need("updates", 1, why="no update was looked at"), Need("parameters"))
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge every parameter with a gradient; the gate decides on harm, not on the fact."""
        moves = movements(recording)
        if not moves:
            return NotApplicable("no parameter was updated with a gradient and a learning rate")
        seen = [m for m in moves if m.steps >= options.least_steps]
        if not seen:
            most = max(m.steps for m in moves)
            return Undecided(
                f"updates were looked at on {most} steps, {options.least_steps} needed"
            )
        # in 32 bits a vector may have a gradient that is rounding noise: a bias before a norm layer
        still = [m for m in seen if m.unchanged and (m.half or m.matrix)]
        slow = [m for m in seen if m.half and not m.unchanged and m.moved <= options.moved]
        if not still and not slow:
            return _passed(seen, options)
        learning = gate(recording)
        total = sum(m.count for m in seen)
        if not still:
            share = sum(m.count for m in slow) / total
            if learning.state == "learning" or share < MOST:
                why = learning.reason if learning.state == "learning" else "the others move"
                return Passed(None, f"{listing([m.name for m in slow])} hardly move, but {why}")
            if not learning.harmed:
                return Undecided(f"small updates are a fault only if they harm: {learning.reason}")
        return Findings((_finding(recording, still, slow, total, learning, options),))


def _passed(seen: list[Movement], options: Options) -> Passed:
    half = [m for m in seen if m.half]
    if not half:
        return Passed(None, f"all of {count(len(seen), 'parameter')} change")
    least = min(half, key=lambda m: m.moved)
    return Passed(
        least.moved / options.moved,
        f"at least {percent(least.moved)} of the elements of {listing([least.name])} change in a "
        f"step, the limit is {percent(options.moved)}",
    )


def _finding(
    recording: Recording,
    still: list[Movement],
    slow: list[Movement],
    total: int,
    learning: Learning,
    options: Options,
) -> Finding:
    members = sorted([*still, *slow], key=lambda m: m.count, reverse=True)
    share = sum(m.count for m in members) / total
    severity, confidence = _verdict(still, total, share, learning, options)
    kind = "format" if any(m.half for m in members) else "learning-rate"
    modules = tuple(dict.fromkeys(m.module for m in members if m.module))
    first = members[0]
    return Finding(
        code=StagnantUpdate.code,
        name=StagnantUpdate.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(still, slow, members),
        modules=modules[:1],
        parameters=tuple(m.name for m in members if m.module == first.module),
        also=modules[1:],
        location=location_of(recording, modules[0]) if modules else None,
        first_step=min(m.first_step for m in members),
        last_step=max(m.last_step for m in members),
        evidence=(
            Evidence("elements changed in a step", first.moved, "", options.moved),
            Evidence(OUTSIDE, share, "", MOST),
            Evidence("steps with a gradient", float(first.steps), "", float(options.least_steps)),
            Evidence("learning rate", first.rate),
            Evidence("RMS of the parameter", first.size),
            *harm(learning),
        ),
        why=_why(share, severity, learning),
        causes=_causes(kind, first),
        kind=kind,
    )


def _verdict(
    still: list[Movement], total: int, share: float, learning: Learning, options: Options
) -> tuple[Severity, Confidence]:
    if not still:
        return judged("warning", "strong", learning)
    if sum(m.count for m in still) >= options.everything * total:
        # nothing is trained: no loss makes that right
        return ("critical" if learning.harmed else "warning"), "certain"
    return ("warning" if learning.harmed and share >= MOST else "note"), "certain"


def _summary(still: list[Movement], slow: list[Movement], members: list[Movement]) -> str:
    if still and not slow:
        verb = "is" if len(still) == 1 else "are"
        return (
            f"{listing([m.name for m in members])} {verb} bit for bit unchanged over "
            f"{count(min(m.steps for m in still), 'step')}, although the gradient is not zero."
        )
    bit = f", and {count(len(still), 'tensor')} not at all" if still else ""
    return (
        f"In a step only {percent(slow[0].moved)} of the elements of {listing([slow[0].name])} "
        f"({slow[0].dtype}) change{_more(len(slow) - 1)}{bit}: the others' updates are rounded "
        "away."
    )


def _more(others: int) -> str:
    return f"; {count(others, 'further tensor')} move as little" if others else ""


def _why(share: float, severity: Severity, learning: Learning) -> str:
    text = f"It concerns {percent(share)} of the elements that an optimizer holds."
    if severity == "note":
        return f"{text} The training does not suffer from it now ({learning.reason})."
    return f"{why_harmful(learning)} {text}"


def _causes(kind: str, first: Movement) -> tuple[str, ...]:
    if kind == "learning-rate":
        return (
            f"The learning rate {number(first.rate)} times the gradient is below half a unit in "
            f"the last place of numbers of size {number(first.size)}.",
            "Something sets the parameter back after each step.",
        )
    digits = DIGITS.get(first.dtype, 11)
    return (
        f"{first.dtype} has {digits} significant bits: a change below 1/{2 ** (digits + 1)} to "
        f"1/{2**digits} of a number is rounded away. Keep the parameters in float32 and use "
        "autocast.",
        f"The learning rate {number(first.rate)} is too low for parameters of size "
        f"{number(first.size)}.",
    )
