"""GS105: each step's gradient points somewhere else, and the steps are large enough to matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.learning import DIVERGED, Learning, gate, loss_curve
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.noise import Noise, noise
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import count, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS105."""

    signal: float = 0.05
    """Share of the gradient that the steps of the window have in common; docs/why/
    terms_spikes_spread.md, "Noise": tiny batches stay within .05 of 0, a stuck training with a
    batch of 64 and too small a learning rate has .27 to .30."""
    samples: float = 8
    """Samples for each step up to which the batch is called too small; there, too: with 16 and more
    each learning rate that fails for them fails for 64 as well."""
    update: float = 2e-3
    """Least median update ratio: the steps must be large enough for noise to carry the weights
    about; below it a larger learning rate still helps (there, too: batches of 1 and 2 at 1.0e-3 and
    1.4e-3 are better with a ten times larger one, those at 3.6e-3 and more are not)."""
    steps: int = 20
    """Gradients compared at least; the gate's limit for a note."""


class NoisyGradient(Rule):
    """Each step's gradient points somewhere else."""

    code = "GS105"
    name = "noisy-gradient"
    title = "The gradient is mostly noise"
    title_ok = "The gradient's signal stands above its noise"
    family = "flow"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("sketches", 20, why="gradients were sketched on fewer than 20 steps"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the last window, behind the gate: tiny batches that learn are healthy."""
        found = noise(recording)
        if math.isnan(found.signal):
            return Undecided("all sketched gradients are zero")
        if found.steps < options.steps:
            return Undecided(
                f"gradients of {count(found.steps, 'step')} before the first non-finite one, "
                f"{options.steps} are needed"
            )
        measured = f"the steps have {percent(max(0.0, found.signal))} of their gradient in common"
        if found.signal >= options.signal:
            return Passed(
                found.signal / options.signal, f"{measured}, the limit is {percent(options.signal)}"
            )
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{measured}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"noise is a fault only if it stops learning: {learning.reason}")
        if math.isnan(found.samples) or math.isnan(found.update):
            return Undecided(f"{measured}; the batch size or the updates were not recorded")
        if found.samples > options.samples:
            return Undecided(
                f"{measured}, but each step sees {number(found.samples)} samples: inputs that say "
                f"nothing about their targets look the same"
            )
        if found.update < options.update:
            return Undecided(
                f"{measured}, but the updates are too small ({number(found.update)} of the "
                f"weights) for noise to be what keeps it from learning"
            )
        return Findings((_finding(recording, options, found, learning),))


def _finding(recording: Recording, options: Options, found: Noise, learning: Learning) -> Finding:
    # a loss thrown far above the trivial one is what steps do that are too large for any batch
    thrown = learning.state == "diverged" or learning.excess > DIVERGED
    severity, confidence = judged("warning", "tentative" if thrown else "strong", learning)
    samples = count(int(found.samples), "sample")
    return Finding(
        code=NoisyGradient.code,
        name=NoisyGradient.name,
        severity=severity,
        confidence=confidence,
        summary=f"The gradients of {count(found.steps, 'step')} have "
        f"{percent(max(0.0, found.signal))} of their size in common: with {samples} for each step "
        f"noise decides where the weights go.",
        location=site_location(loss_curve(recording).site),
        first_step=found.first_step,
        last_step=found.last_step,
        evidence=(
            Evidence("share that the gradients have in common", found.signal, "", options.signal),
            Evidence("samples for each optimizer step", found.samples, "", options.samples),
            Evidence("median update ratio of the weights", found.update, "", options.update),
            Evidence("gradients compared", float(found.steps), "steps", float(options.steps)),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} Each step undoes what the one before it learned: the weights "
        f"wander instead of going downhill.",
        causes=(
            f"Batches of {samples}: a larger batch, or gradients accumulated over several, has "
            f"less noise.",
            "A learning rate that is too large for so small a batch: a smaller one averages over "
            "more steps.",
            "Less likely: labels that do not belong to their inputs.",
        ),
        kind="small-batch",
    )
