"""GS506: step, clip, backward and zero_grad in a wrong order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.turns import HAND_WRITTEN, MAKES_GRADIENTS, Event, Turn, turns
from gradscope.diagnose.verdict import why_harmful
from gradscope.diagnose.wording import count, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS506."""

    least_steps: int = 5
    """Steps of an optimizer with the fault: a first step before the first backward, or one after a
    batch that was left out, is no order. Ours."""
    share: float = 0.1
    """... and their share of its steps. Ours: a fault in the loop's order shows on every step, one
    in a branch (every tenth batch, the end of an epoch) on fewer."""
    most: float = 0.5
    """Share of the steps above which steps that move nothing are a warning whatever the loss does:
    most of the training is lost. Ours: the majority."""


_TITLES = {
    "cleared": "clears the gradients between backward and step",
    "no-backward": "steps again on gradients that were used already",
    "clip-after-step": "clips after the step, when the gradients have been used",
    "clip-before-backward": "clips before backward, when there are no gradients yet",
    "clip-before-unscale": "clips gradients that still carry the loss scaler's factor",
}
_WHY = {
    "cleared": "A step without gradients changes nothing.",
    "no-backward": "A gradient belongs to the parameters at which it was computed; used again, it "
    "acts as a larger step whose direction is out of date.",
    "clip-after-step": "The step used the gradients as they were: nothing is limited.",
    "clip-before-backward": "The gradients of the step are made after it: nothing is limited.",
    "clip-before-unscale": "The limit is compared with a norm that is as many times too large as "
    "the loss scale says, so the gradients are cut far below it.",
}
_CAUSES = {
    "cleared": "`zero_grad()` belongs before backward or after the step.",
    "no-backward": "A second `step()`, or one outside the block that calls backward.",
    "clip-after-step": "The clip belongs between backward and step.",
    "clip-before-backward": "The clip belongs between backward and step.",
    "clip-before-unscale": "`scaler.unscale_(optimizer)` is missing before the clip.",
}


class StaleGradient(Rule):
    """The loop's calls stand in an order that leaves gradients stale, gone or not yet there."""

    code = "GS506"
    name = "stale-gradient"
    title = "Step, clip, backward and zero_grad are in a wrong order"
    title_ok = "Step, clip, backward and zero_grad are in order"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("events", 3, why="the calls of the loop were not seen"),
        Need("steps", 3, why="fewer than 3 steps were seen"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the turns of each optimizer; one finding a kind of disorder."""
        found = [turn for turn in turns(recording) if turn.optimizer != HAND_WRITTEN]
        if not found:
            return NotApplicable("no step of an optimizer was seen")
        fresh = [turn for turn in found if turn.last_fresh() >= 0]
        if not fresh:
            return NotApplicable("no backward call was seen: the gradients come from elsewhere")
        most = max(_per_optimizer(found).values())
        if most < options.least_steps:
            return Undecided(f"{most} steps of an optimizer seen, {options.least_steps} are needed")
        learning = gate(recording)
        cases = [
            case
            for kind, test in _TESTS
            for case in _cases(kind, test, found, options)
        ]  # fmt: skip
        if not cases:
            return Passed(None, f"the calls of all {count(len(found), 'step')} are in order")
        return Findings(tuple(_finding(case, learning, options) for case in cases))


@dataclass(frozen=True, slots=True)
class _Case:
    """One kind of disorder of one optimizer."""

    kind: str
    hits: tuple[tuple[Turn, str], ...]
    """Its turns, each with the site of the call that stands in the wrong place."""
    steps: int

    @property
    def share(self) -> float:
        return len(self.hits) / self.steps


def _per_optimizer(found: Sequence[Turn]) -> dict[int, int]:
    amounts: dict[int, int] = {}
    for turn in found:
        amounts[turn.optimizer] = amounts.get(turn.optimizer, 0) + 1
    return amounts


def _cases(
    kind: str, test: Callable[[Turn], str | None], found: Sequence[Turn], options: Options
) -> list[_Case]:
    cases = []
    for optimizer, steps in _per_optimizer(found).items():
        own = [(turn, test(turn)) for turn in found if turn.optimizer == optimizer]
        hits = tuple((turn, site) for turn, site in own if site is not None)
        case = _Case(kind, hits, steps)
        if len(hits) >= options.least_steps and case.share >= options.share:
            cases.append(case)
    return cases


def _cleared(turn: Turn) -> str | None:
    """A call that clears, behind the last backward, and a step that had no gradients."""
    fresh = turn.last_fresh()
    clears = [e for e in turn.events[fresh + 1 :] if e.kind == "zero-grad" and _of(e, turn)]
    if fresh < 0 or not clears or turn.gradient not in ("none", "zero"):
        return None
    return clears[0].site


def _no_backward(turn: Turn) -> str | None:
    """No backward since the step before, and the very gradients that it used."""
    return turn.site if turn.last_fresh() < 0 and turn.gradient == "same" else None


def _stale_clips(turn: Turn) -> list[int]:
    """Positions of clips before any backward of the turn, where no clip follows a backward.

    A limit that is never reached is there to read the norm, not to clip.
    """
    kinds = [event.kind for event in turn.events]
    first = next((i for i, kind in enumerate(kinds) if kind in MAKES_GRADIENTS), None)
    clips = [i for i, e in enumerate(turn.events) if e.kind == "clip" and _of(e, turn)]
    if first is None or any(i > first for i in clips):
        return []
    return [i for i in clips if (turn.events[i].limit or 0.0) < float("inf")]


def _clip_after_step(turn: Turn) -> str | None:
    """A stale clip of gradients that are still there from the step before."""
    return next((turn.events[i].site for i in _stale_clips(turn) if turn.events[i].value), None)


def _clip_before_backward(turn: Turn) -> str | None:
    """A stale clip that found no gradients."""
    found = _stale_clips(turn)
    return turn.events[found[0]].site if found and not _clip_after_step(turn) else None


def _clip_before_unscale(turn: Turn) -> str | None:
    """A clip behind the last backward whose gradients are unscaled only afterwards."""
    behind = turn.events[turn.last_fresh() + 1 :] if turn.last_fresh() >= 0 else ()
    for position, event in enumerate(behind):
        later = [e for e in behind[position:] if e.kind == "unscale" and _of(e, turn)]
        if event.kind == "clip" and _of(event, turn) and any((e.value or 1) > 1 for e in later):
            return event.site
    return None


def _of(event: Event, turn: Turn) -> bool:
    """Whether a call is about the parameters of the turn's optimizer, as far as it is known."""
    if event.kind == "clip":
        owners = event.detail.get("optimizers")
        return owners is not None and turn.optimizer in owners
    return event.optimizer is None or event.optimizer == turn.optimizer


_TESTS: tuple[tuple[str, Callable[[Turn], str | None]], ...] = (
    ("cleared", _cleared),
    ("no-backward", _no_backward),
    ("clip-after-step", _clip_after_step),
    ("clip-before-backward", _clip_before_backward),
    ("clip-before-unscale", _clip_before_unscale),
)


def _finding(case: _Case, learning: Learning, options: Options) -> Finding:
    site = case.hits[0][1]
    loop = f"The loop ({site})" if site_location(site) else "The loop"
    return Finding(
        code=StaleGradient.code,
        name=StaleGradient.name,
        severity=_severity(case, learning, options),
        confidence="certain",
        summary=f"{loop} {_TITLES[case.kind]}, on {percent(case.share)} of "
        f"{count(case.steps, 'step')}.",
        location=site_location(site),
        first_step=case.hits[0][0].step,
        last_step=case.hits[-1][0].step,
        evidence=(
            Evidence("steps with the fault", float(len(case.hits)), f"of {case.steps}"),
            Evidence("share of the steps", case.share, "", options.share),
        ),
        why=f"{_WHY[case.kind]} {why_harmful(learning)}",
        causes=(_CAUSES[case.kind],),
        kind=case.kind,
    )


def _severity(case: _Case, learning: Learning, options: Options) -> Severity:
    # a step without gradients moves nothing: that is a fact, whatever the loss does
    if case.kind == "cleared" and case.share > options.most:
        return "critical" if case.share == 1 or learning.harmed else "warning"
    return "warning" if learning.harmed else "note"
