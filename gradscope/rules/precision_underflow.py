"""GS202: the gradient is too small for the 16-bit format that it is held in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.formats import DIGITS
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.underflow import Reading, Scaler, half_formats, readings, scaler
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, count, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS202."""

    bits: float = 1.5
    """Binary digits between the gradient and the format's floor: with 2 or more a float16 training
    kept up with its float32 twin, with 1.1 or fewer none did (docs/why/precision.md)."""
    batches: int = 5
    """Sampled steps in the window (docs/why/precision.md): the sizes hardly move between steps."""
    skips: int = windows.NORMAL_SKIPS
    """Skipped steps in a row at the end of a run; see windows.NORMAL_SKIPS."""
    least_scale: float = 1.0
    """A scale below it makes the loss smaller: DeepSpeed's default ``min_loss_scale`` is 1."""


class PrecisionUnderflow(Rule):
    """Gradients in the lowest binades of a 16-bit format, or rounded to zero."""

    code = "GS202"
    name = "precision-underflow"
    title = "The gradient is too small for its number format"
    title_ok = "The number format holds the gradient"
    family = "numerics"
    severity = "warning"
    since = "0.1.0"
    needs = (Need("steps", 1, why="no step was recorded"), Need("parameters"))
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the loss scaler, then each gradient that is held in 16 bits."""
        scale = scaler(recording)
        if scale.skipped_last > options.skips:
            return Findings((_skips(scale, options),))
        if not half_formats(recording) and not scale.used:
            return NotApplicable("no tensor is held in float16 or bfloat16")
        collapsed = scale.used and scale.last < options.least_scale
        found = [r for r in readings(recording) if r.steps >= options.batches]
        if not found and not collapsed:
            return Undecided(
                f"gradients in 16 bits were looked at on fewer than {options.batches} steps"
            )
        low = _underflowed(found, options.bits)
        if not low and not collapsed:
            least = min(found, key=lambda r: r.bits if math.isfinite(r.bits) else math.inf)
            margin = 2.0 ** (least.bits - options.bits) if math.isfinite(least.bits) else None
            return Passed(margin, f"{_measured(least)}, the limit is {number(options.bits)}")
        learning = gate(recording)
        if learning.state == "learning":
            what = _measured(low[-1]) if low else f"the loss scale fell to {number(scale.last)}"
            return Passed(None, f"{what}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"a small gradient is a fault only if it harms: {learning.reason}")
        if not low:
            return Findings((_collapse(scale, learning, options),))
        return Findings((_underflow(recording, low, found, scale, learning, options),))


def _underflowed(found: list[Reading], limit: float) -> list[Reading]:
    """Tensors below the limit, from the input to the loss.

    A gradient that is exactly zero counts only where the one behind it, on the way from the loss,
    is at the floor as well (or nothing is behind it): dead units make zeros, too.
    """
    low: list[Reading] = []
    at_floor = True
    for reading in reversed(found):
        if reading.bits == -math.inf:
            if at_floor:
                low.append(reading)
            continue
        at_floor = reading.bits <= limit
        if at_floor:
            low.append(reading)
    return low[::-1]


def _underflow(
    recording: Recording,
    low: list[Reading],
    found: list[Reading],
    scale: Scaler,
    learning: Learning,
    options: Options,
) -> Finding:
    first = low[-1]
    kind = "loss" if first is found[-1] else "depth"
    severity, confidence = judged("warning", "strong", learning)
    modules = tuple(dict.fromkeys(r.module for r in reversed(low)))
    return Finding(
        code=PrecisionUnderflow.code,
        name=PrecisionUnderflow.name,
        severity=severity,
        confidence=confidence,
        summary=f"The gradient at {code(first.module)} is held in {first.dtype} and has "
        f"{_bits(first)}{_more(len(low) - 1)}.",
        modules=modules[:1],
        parameters=tuple(r.parameter for r in low if r.parameter),
        also=modules[1:],
        location=location_of(recording, first.module),
        first_step=first.first_step,
        last_step=first.last_step,
        evidence=(
            # a tensor of zeros has no size; its number of bits is none
            Evidence("significant bits left", max(first.bits, 0.0), "bits", options.bits),
            Evidence("share of exact zeros", first.zeros),
            Evidence("share of tensors in 16 bits below the limit", len(low) / len(found)),
            Evidence("loss scale", scale.last if scale.used else 1.0),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} What is below half of the smallest number of a format is "
        "rounded to zero, and the layers before it get nothing.",
        causes=_causes(kind, scale),
        kind=kind,
    )


def _skips(scale: Scaler, options: Options) -> Finding:
    return Finding(
        code=PrecisionUnderflow.code,
        name=PrecisionUnderflow.name,
        severity="critical",
        confidence="certain",
        summary=f"The loss scaler skipped the last {count(scale.skipped_last, 'step')}, and the "
        "training stands still.",
        first_step=scale.first_skip,
        last_step=scale.last_step,
        evidence=(
            Evidence("skipped steps at the end", float(scale.skipped_last), "", options.skips),
            Evidence("loss scale", scale.last),
        ),
        why="A skipped step changes no parameter; a scaler that works needs a few skips to find "
        "its scale, and then one in thousands.",
        causes=_SKIP_CAUSES[::-1] if scale.last >= options.least_scale else _SKIP_CAUSES,
        kind="skips",
    )


_SKIP_CAUSES = (
    "A gradient that is NaN or infinite at every scale: a scaler cannot mend that.",
    "A scale that is far too high and is not lowered: the back-off is too weak, or `update()` is "
    "not called.",
)
"""In this order when the scale is small already: then it is not the scale."""


def _collapse(scale: Scaler, learning: Learning, options: Options) -> Finding:
    severity, confidence = judged("warning", "strong", learning)
    return Finding(
        code=PrecisionUnderflow.code,
        name=PrecisionUnderflow.name,
        severity=severity,
        confidence=confidence,
        summary=f"The loss scale fell from {number(scale.first)} to {number(scale.last)}: it makes "
        "the gradient smaller instead of larger.",
        first_step=scale.first_step,
        last_step=scale.last_step,
        evidence=(
            Evidence("loss scale", scale.last, "", options.least_scale),
            Evidence("skipped steps", float(scale.skipped)),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} Some gradient overflows again and again, so the scaler goes "
        "down, and all others underflow.",
        causes=("A gradient that overflows float16 even without a scale.",),
        kind="scale",
    )


def _causes(kind: str, scale: Scaler) -> tuple[str, ...]:
    if scale.used:
        return (
            f"The loss scale is only {number(scale.last)}.",
            "Gradients of very different sizes: one overflows before the others are large enough.",
        )
    first = "No loss scaler is in use: float16 needs one; bfloat16 has the range of float32."
    if kind == "loss":
        return (first, "A small factor around the loss, or a mean over very many elements.")
    return (first, "The gradient shrinks on its way from the loss to this layer.")


def _measured(reading: Reading) -> str:
    return f"the gradient at {code(reading.module)} ({reading.dtype}) has {_bits(reading)}"


def _bits(reading: Reading) -> str:
    if reading.bits == -math.inf:
        return "no bits left: it is exactly zero"
    left = min(max(reading.bits, 0.0), DIGITS[reading.dtype])
    return f"{number(left)} significant bits left ({percent(reading.zeros)} of it is exactly zero)"


def _more(others: int) -> str:
    return f"; so do {count(others, 'further tensor')}" if others else ""
