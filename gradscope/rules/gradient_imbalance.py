"""GS106: one term of the loss drowns another in the layers that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.learning import (
    EXCESS,
    NOTE_STEPS,
    STUCK,
    WARM_UP_FACTOR,
    WARNING_STEPS,
    loss_curve,
)
from gradscope.diagnose.locate import location_of, site_location
from gradscope.diagnose.rule import (
    Findings,
    Need,
    NotApplicable,
    Outcome,
    Passed,
    Rule,
    Undecided,
)
from gradscope.diagnose.terms import Push, Term, loss_terms, pushes
from gradscope.diagnose.wording import code, count, factor, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS106."""

    ratio: float = 10.0
    """Gradient of the stronger term over that of the weaker one where they meet;
    docs/why/terms_spikes_spread.md, "Imbalance": balanced pairs stay below 3, drowned ones begin
    at 11."""
    stuck: float = STUCK
    """Weaker term's loss over its trivial loss for a warning: the gate's own limit for a loss that
    has learned nothing (diagnose/learning.py)."""
    behind: float = EXCESS
    """The same for a note: the gate's limit for a loss that has learned little."""
    steps: int = NOTE_STEPS
    """Steps on which both terms were read; the gate's limit for a note."""


class GradientImbalance(Rule):
    """One term of the loss drowns another in the layers that they share."""

    code = "GS106"
    name = "gradient-imbalance"
    title = "One loss term drowns another"
    title_ok = "No loss term drowns another"
    family = "flow"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("losses", 1, "not-applicable", why="no loss operation was found in the graph"),
        Need("losses.term", 1, why="the terms of the loss were not told apart when recording"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge each term that has a trivial loss; one finding for the worst one."""
        terms = loss_terms(recording)
        if len(terms) < 2:
            return NotApplicable("the loss has a single term whose value is known")
        if loss_curve(recording).several:
            return NotApplicable("the losses belong to optimizers of their own")
        known = [term for term in terms if math.isfinite(term.excess)]
        if not known:
            return Undecided("what a constant answer would cost is not known for any term")
        if min(term.steps for term in terms) < options.steps:
            return Undecided(f"fewer than {options.steps} steps with every term of the loss")
        if windows.steps_seen(recording) <= WARM_UP_FACTOR * windows.warm_up(recording):
            return Undecided("the learning rate has not yet risen to its full size")
        behind = [t for t in known if t.excess > options.behind and t.plateau > options.behind]
        worst = max(known, key=lambda term: term.excess)
        if not behind:
            return Passed(
                options.behind / worst.excess if worst.excess > 0 else None,
                f"every term learns: the slowest is at {percent(worst.excess)} of its trivial loss",
            )
        pairs = _pairs(pushes(recording, terms), behind, options)
        if pairs is None:
            return Undecided(
                f"{_name(worst)} is at {percent(worst.excess)} of its trivial loss, but the tensor "
                f"that the terms share, or the weights that read it, were not recorded"
            )
        if not pairs:
            return Passed(None, f"{_name(worst)} lags, but so does every other term")
        weak, strong = max(pairs, key=_ratio)
        if _ratio((weak, strong)) < options.ratio:
            return Passed(
                options.ratio / _ratio((weak, strong)),
                f"terms differ by {factor(_ratio((weak, strong)))} where they meet, the limit is "
                f"{factor(options.ratio)}",
            )
        return Findings((_finding(recording, options, weak, strong),))


def _pairs(
    found: tuple[Push, ...], behind: list[Term], options: Options
) -> list[tuple[Push, Push]] | None:
    """Each term that lags and the strongest one beside it; None where it cannot be compared."""
    usable = [push for push in found if push.norm > 0 and math.isfinite(push.norm)]
    pairs = []
    for weak in (push for push in usable if push.term in behind):
        # a term that learns nothing either drowns nobody: then the cause is common to both
        others = [p for p in usable if p.head != weak.head and _learns(p.term, options)]
        if others:
            pairs.append((weak, max(others, key=lambda push: push.norm)))
    return pairs if pairs or any(push.term in behind for push in usable) else None


def _learns(term: Term, options: Options) -> bool:
    """Whether it falls or has fallen; a term without a trivial loss counts as one that learns."""
    return term.falling or not term.excess > options.behind


def _ratio(pair: tuple[Push, Push]) -> float:
    return pair[1].norm / pair[0].norm


def _name(term: Term) -> str:
    reads = f" of {code(term.module)}" if term.module_id >= 0 else ""
    return f"the term {term.operation}{reads}"


def _finding(recording: Recording, options: Options, weak: Push, strong: Push) -> Finding:
    ratio, term = _ratio((weak, strong)), weak.term
    stuck = term.excess > options.stuck and term.plateau > options.stuck and not term.falling
    early = term.steps < WARNING_STEPS
    severity: Severity = "warning" if stuck and not early else "note"
    level = f"{percent(term.excess)} of what a constant answer costs"
    parameters = recording.parameters
    own = parameters[parameters["module_name"] == weak.head]
    return Finding(
        code=GradientImbalance.code,
        name=GradientImbalance.name,
        severity=severity,
        confidence="strong" if stuck else "tentative",
        summary=f"Where they meet, the gradient of {_name(strong.term)} is about {factor(ratio)} "
        f"that of {_name(term)}, which {'learns nothing' if stuck else 'lags behind'}.",
        modules=(weak.head,),
        parameters=tuple(str(name) for name in own["name"]),
        also=(strong.head,),
        location=site_location(term.site) or location_of(recording, weak.head),
        first_step=0,
        last_step=windows.last_step(recording),
        evidence=(
            Evidence("gradient of the stronger over the weaker term", ratio, "", options.ratio),
            Evidence(f"estimated gradient through {weak.head}", weak.norm),
            Evidence(f"estimated gradient through {strong.head}", strong.norm),
            Evidence("weaker term over its trivial loss", term.excess, "", options.stuck),
            *(
                (Evidence("stronger term over its trivial loss", strong.term.excess),)
                if math.isfinite(strong.term.excess)
                else ()
            ),
        ),
        why=f"After {count(term.steps, 'step')} this term is at {level}. The layers that both "
        f"share follow the stronger one: what this term asks for is lost beside it, and a learning "
        f"rate that suits the stronger one is too small for it.",
        causes=(
            f"The terms have different scales: multiply one of them so that the ratio of "
            f"{factor(ratio)} becomes about 1.",
            "Less likely: a task that cannot be learned from these inputs.",
        ),
        kind=f"{strong.term.operation}-over-{term.operation}",
    )
