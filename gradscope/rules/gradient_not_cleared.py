"""GS501: gradients of one step are carried into the next."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.learning import Learning, LossCurve, gate, loss_curve
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.turns import HAND_WRITTEN, Turn, turns
from gradscope.diagnose.verdict import why_harmful
from gradscope.diagnose.wording import count, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS501."""

    least_steps: int = 10
    """Steps that carried gradients of the step before. Ours: a batch that is left out, or a
    resumed training, carries once."""
    share: float = 0.25
    """... and their share of the steps that could be judged. Ours: below the half that clearing on
    every other step gives, above what leftover batches at the ends of epochs give."""
    relapse: float = 0.3
    """Rise of the loss above its own minimum, in units of the trivial loss, from which carried
    gradients are harmful: docs/why/loop.md, "Gradients that are carried" (0.42 and more where the
    mended loop learns clearly better, 0.18 and less elsewhere)."""


class GradientNotCleared(Rule):
    """The optimizer steps on gradients to which those of earlier steps were added."""

    code = "GS501"
    name = "gradient-not-cleared"
    title = "Gradients are not cleared between steps"
    title_ok = "Gradients are cleared between steps"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("events", 3, why="the calls of the loop were not seen"),
        Need("steps", 3, why="fewer than 3 steps were seen"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the turns of each optimizer after its first; one finding for the worst."""
        made = [t for t in turns(recording) if not t.first and t.last_fresh() >= 0]
        if not made:
            return NotApplicable("no step with a backward before it followed another step")
        states = [(turn, turn.cleared) for turn in made]
        known = [turn for turn, state in states if state != "unknown"]
        if len(known) < options.least_steps:
            return Undecided(
                f"whether gradients were cleared could be told on {count(len(known), 'step')}, "
                f"{options.least_steps} are needed"
            )
        of = Counter(turn.optimizer for turn in known)
        carried = [turn for turn, state in states if state == "carried"]
        held = Counter(turn.optimizer for turn in carried)
        worst = max(of, key=lambda optimizer: held[optimizer] / of[optimizer])
        share = held[worst] / of[worst]
        if share < options.share or held[worst] < options.least_steps:
            margin = options.share / share if 0 < share < options.share else None
            return Passed(
                margin, f"gradients were cleared before {percent(1 - share)} of {of[worst]} steps"
            )
        own = [turn for turn in carried if turn.optimizer == worst]
        return Findings((_finding(recording, own, share, of[worst], options),))


def relapse(curve: LossCurve) -> float:
    """Last loss minus the smallest before, both smoothed, in units of the trivial loss.

    Without a trivial loss the first losses are the unit. Infinite where the loss ended in NaN or
    Inf; NaN where there is too little of it or several losses stand against each other.
    """
    loss = curve.loss
    if len(loss) < 10 or curve.several:
        return math.nan
    if not np.isfinite(loss).all():
        return math.inf
    window = max(5, len(loss) // 20)
    smooth = np.convolve(loss, np.ones(window) / window, "valid")
    unit = curve.baseline_as_loss
    unit = unit if math.isfinite(unit) else abs(float(loss[:3].mean()))
    return float(smooth[-1] - smooth.min()) / unit if unit > 0 else math.nan


def _finding(
    recording: Recording, carried: list[Turn], share: float, judged: int, options: Options
) -> Finding:
    curve = loss_curve(recording)
    rise = relapse(curve)
    learning = gate(recording)
    kind = "never" if share == 1 else "seldom"
    steps = "every step" if share == 1 else f"{percent(share)} of the steps"
    site = carried[-1].site
    evidence = [
        Evidence("share of steps with gradients of the step before", share, "", options.share),
        Evidence("steps that could be judged", float(judged)),
    ]
    if not math.isnan(rise):
        evidence.append(
            Evidence("rise of the loss above its minimum", rise, "trivial losses", options.relapse)
        )
    return Finding(
        code=GradientNotCleared.code,
        name=GradientNotCleared.name,
        severity=_severity(rise, learning, options),
        confidence="certain",
        summary=f"The gradients that {steps} used were not cleared afterwards: the next backward "
        f"added to them.",
        location=site_location(site),
        first_step=carried[0].step,
        last_step=carried[-1].step,
        evidence=tuple(evidence),
        why=_why(rise, learning, options),
        causes=(_cause(carried[-1], kind),),
        kind=kind,
    )


def _severity(rise: float, learning: Learning, options: Options) -> Severity:
    if math.isinf(rise) or rise > 1:
        return "critical"
    # what overshoots from the first step on never falls, and has nothing to rise from
    shows = rise >= options.relapse or _stands(learning)
    return "warning" if shows else "note"


def _stands(learning: Learning) -> bool:
    return learning.state in ("stuck", "diverged") and not learning.so_far


def _why(rise: float, learning: Learning, options: Options) -> str:
    sums = (
        "Each step goes along the sum of all gradients since the last clearing, like a momentum "
        "that never fades: it overshoots, and the longer it runs the further."
    )
    if math.isinf(rise):
        return f"{sums} The loss ended in NaN or Inf."
    if rise >= options.relapse:
        return (
            f"{sums} The loss fell and then rose again by {number(rise)} times what a constant "
            "answer costs."
        )
    if _stands(learning):
        return f"{sums} {why_harmful(learning)}"
    return f"{sums} So far the loss does not show it."


def _cause(turn: Turn, kind: str) -> str:
    if turn.optimizer == HAND_WRITTEN:
        return "The hand-written update lacks `p.grad = None` (or `p.grad.zero_()`) behind it."
    if kind == "never":
        return "No `optimizer.zero_grad()` in the loop, or one that stands outside it."
    return "`zero_grad()` is called on fewer steps than `step()`: both belong to the same branch."
