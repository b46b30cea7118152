"""GS103: one step's gradient was far larger than all before it, and the loss paid for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.diagnose.finding import Confidence, Evidence, Finding, Severity
from gradscope.diagnose.learning import Learning, gate, loss_curve
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.precedence import FIRST_NONFINITE
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.spikes import AFTER, HISTORY, LEAST_HISTORY, ONSET, Spike, spikes
from gradscope.diagnose.wording import count, factor, number
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS103."""

    size: float = 10.0
    """Norm over the median of its history; the largest healthy step in small trainings was 8.6
    times its median (docs/why/terms_spikes_spread.md, "Spikes")."""
    recovery: int = 20
    """Steps within which the loss must be back below the largest of the 20 losses before. Ours:
    as many steps as the comparison looks back."""
    lr_jump: float = 1.5
    """A learning rate that rises by this factor in one step is a restart of a schedule, and what
    follows is no bad batch. Ours."""


class GradientSpike(Rule):
    """One step's gradient was far larger than all before it."""

    code = "GS103"
    name = "gradient-spike"
    title = "A single step's gradient threw the training back"
    title_ok = "No single step's gradient threw the training back"
    family = "flow"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", LEAST_HISTORY + 1, why=f"fewer than {LEAST_HISTORY + 1} steps with a "
             "loss: there is no history to compare a step with"),
    )  # fmt: skip
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge each step; one finding for the spike that cost the loss most."""
        if loss_curve(recording).several:
            return Undecided("several optimizers with losses of their own: norms are not alike")
        scored, found = spikes(recording, options.size)
        if not scored:
            return Undecided(f"fewer than {LEAST_HISTORY + 1} steps with a finite gradient or loss")
        found = tuple(s for s in found if not s.lr_jump > options.lr_jump)
        harmful = [spike for spike in found if spike.harmed]
        breaking = _before_the_end(found)
        if breaking is not None and breaking.broke:
            return Findings((_finding(recording, options, breaking, 1, gate(recording)),))
        if not harmful:
            largest = max(found, key=lambda s: s.size, default=None)
            if largest is not None:
                return Passed(
                    None,
                    f"step {largest.step} had {factor(largest.size)} the usual size, and the loss "
                    f"did not rise after it{' (it was clipped)' if largest.clipped else ''}",
                )
            return Passed(
                None, f"none of {count(scored, 'step')} is above {factor(options.size)} its history"
            )
        worst = max(harmful, key=lambda s: (_lasting(s, options), s.after - s.before))
        return Findings((_finding(recording, options, worst, len(harmful), gate(recording)),))


def _before_the_end(found: Sequence[Spike]) -> Spike | None:
    """The first of the steps that stand out, one behind the other, up to a non-finite value."""
    first: Spike | None = None
    for spike in reversed(found):
        gap = spike.ended if first is None else first.step - spike.step
        if gap is None or gap > AFTER:
            break
        first = spike
    return first


def _lasting(spike: Spike, options: Options) -> bool:
    """Whether it took longer than ``recovery`` steps; False where too few follow to know."""
    if spike.broke:
        return True
    if spike.recovered is not None:
        return spike.recovered > options.recovery
    return spike.looked >= options.recovery


def _finding(
    recording: Recording, options: Options, spike: Spike, amount: int, learning: Learning
) -> Finding:
    lasting = _lasting(spike, options)
    confidence: Confidence = "strong" if lasting else "tentative"
    severity: Severity = "warning" if lasting else "note"
    if spike.broke:
        severity = "critical"
    elif learning.basis != "baseline":
        # a policy's loss, or a critic's, has no level that it should come back to
        severity, confidence = "note", "tentative"
    what = "gradient" if spike.by_norm else "loss"
    end = spike.step + (spike.recovered if spike.recovered is not None else spike.looked)
    others = f" {count(amount - 1, 'more step')} did so too." if amount > 1 else ""
    return Finding(
        code=GradientSpike.code,
        name=GradientSpike.name,
        severity=severity,
        confidence=confidence,
        summary=f"At step {spike.step} the {what} was {factor(spike.size)} its usual size, and "
        f"{_after(spike)}.",
        location=site_location(loss_curve(recording).site),
        first_step=spike.step,
        last_step=end,
        evidence=(
            Evidence(
                f"{what} over the median of up to {HISTORY} steps before",
                spike.size,
                "",
                options.size,
            ),
            Evidence("scatters above that median, on a log scale", spike.score, "", spike.limit),
            *_levels(spike),
            *(
                (
                    Evidence(
                        "steps until the loss was back",
                        float(spike.recovered),
                        "steps",
                        float(options.recovery),
                    ),
                )
                if spike.recovered is not None
                else ()
            ),
        ),
        why=f"One step undid what many had learned: {_recovery(spike)}.{others}",
        causes=_causes(spike),
        kind="bad-batch",
    )


def _levels(spike: Spike) -> tuple[Evidence, ...]:
    if spike.broke:
        return (
            Evidence("loss of that step over the largest of 20 before", spike.jump, "", ONSET),
            Evidence(FIRST_NONFINITE, float(spike.step + (spike.ended or 0))),
        )
    return (
        Evidence("median loss of the 20 steps before", spike.before),
        Evidence("median loss of the 5 steps after", spike.after, "", spike.ceiling),
    )


def _after(spike: Spike) -> str:
    if spike.broke:
        return (
            f"{_recovery(spike)}: its batch alone had {factor(spike.jump)} the loss of any before"
        )
    return f"the loss rose from {number(spike.before)} to {number(spike.after)}; {_recovery(spike)}"


def _recovery(spike: Spike) -> str:
    if spike.broke:
        return f"{count(spike.ended or 0, 'step')} later the values were no longer finite"
    if spike.recovered is None:
        return f"it was not back within the {count(spike.looked, 'step')} that follow"
    return f"it was back after {count(spike.recovered, 'step')}"


def _causes(spike: Spike) -> tuple[str, ...]:
    data = "A batch that is unlike the others: outliers, a wrong scale, broken samples."
    if spike.clipped:
        return (data, "It was clipped, but the clip's limit is above what the training stands.")
    clip = (
        "Nothing limits the gradient's norm: a clip would have kept this step as small as others."
    )
    return (data, clip, "Less likely: a learning rate near the limit of what is stable.")
