"""GS504: inputs or targets of a scale that the first weights and the learning rate are not for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradscope.diagnose import windows
from gradscope.diagnose.entering import EnteringTensor, TargetScale, entering, target_scale
from gradscope.diagnose.finding import Confidence, Evidence, Finding, Severity
from gradscope.diagnose.growth import run_up
from gradscope.diagnose.held import Held, nearest, passed
from gradscope.diagnose.learning import EARLY_EXCESS, Learning, gate
from gradscope.diagnose.locate import location_of, site_location
from gradscope.diagnose.movement import Movement, movement
from gradscope.diagnose.precedence import FIRST_NONFINITE
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, number
from gradscope.recording.reader import Recording
from gradscope.rules.learning_rate_too_high import LearningRateTooHigh, signs
from gradscope.rules.learning_rate_too_low import LearningRateTooLow, barely_moves


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS504. Standardised data have a mean of 0 and an RMS of 1."""

    large: float = 5.0
    """RMS above which an input is large. docs/why/learning_rate.md: digits as they come, 0 to 16
    with an RMS of 7.6, stop a ReLU net under SGD that trains at 0 to 1."""
    small: float = 0.1
    """RMS below which an input is small, if no value is above ``small_max``. The same source: the
    diabetes data as scikit-learn ships them, with an RMS of 0.048, lose half of what can be learned
    under SGD."""
    small_max: float = 0.25
    """Largest value of a small input: one-hot codes and sparse inputs have ones. Ours."""
    offset: float = 10.0
    """Mean over standard deviation beyond which an input is nearly a constant, over all elements or
    in the median of its features (each in units of its own). Ours: 100 times as much of its square
    is offset as is signal."""
    target: float = 10.0
    """RMS above which a target is large. Ours: ten times what fresh output layers give."""
    first_loss: float = 1.25
    """Loss over the trivial one: above it the answers have not even come to the targets' mean; the
    limit of docs/why/signals.md, "Peak and first loss"."""
    growth: float = 10.0
    """Growth of norm or loss before a NaN, as for GS102."""


class UnscaledInput(Rule):
    """Inputs or targets are far from mean 0 and spread 1, and the training suffers from it."""

    code = "GS504"
    name = "unscaled-input"
    title = "Inputs or targets are not scaled"
    title_ok = "Inputs and targets have a usual scale"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("activations", 1, why="modules were not looked at, so their inputs are not known"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge inputs, then targets; both only where the training is harmed in a fitting way."""
        inputs, target = entering(recording), target_scale(recording)
        if not inputs and target is None:
            return NotApplicable(
                "no floating input reaches weights as it is (token ids, or a normalisation stands "
                "before them), and no floating target was seen"
            )
        odd = [(x, kind) for x in inputs if (kind := kind_of(options, x))]
        far = target is not None and target.rms > options.target
        if not odd and not far:
            return _passed(options, inputs, target)
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{_measured(inputs, target)}, but it trains: {learning.reason}")
        moved = movement(recording)
        thrown = _thrown(recording, options, moved, learning)
        end = windows.first_nonfinite(recording)
        if end is not None and not thrown:
            return Undecided(f"step {end} has NaN or Inf values without growth before them: GS201")
        if end is None and not learning.harmed:
            return Undecided(f"an odd scale is a fault only if it does harm: {learning.reason}")
        slow = barely_moves(LearningRateTooLow.options, moved)
        found = []
        if target is not None and far and (thrown or slow or learning.excess > options.first_loss):
            found.append(_target(recording, options, target, learning))
        for tensor, kind in odd:
            # large inputs make large gradients, small ones small: what is seen must fit to that
            fits = not (thrown or found) if kind == "input-small" else not slow
            if fits:
                found.insert(0, _input(recording, options, tensor, kind, learning, thrown))
                break
        if not found:
            return Passed(
                None, f"{_measured(inputs, target)}; what stops the training does not fit to it"
            )
        return Findings(tuple(found))


def kind_of(options: Options, tensor: EnteringTensor) -> str:
    """``input-offset``, ``input-large``, ``input-small`` or ""."""
    if abs(tensor.mean) > options.offset * tensor.std > 0 or tensor.offset > options.offset:
        return "input-offset"
    if tensor.rms > options.large:
        return "input-large"
    small = 0 < tensor.rms < options.small and tensor.max_abs < options.small_max
    return "input-small" if small else ""


def _thrown(recording: Recording, options: Options, moved: Movement, learning: Learning) -> bool:
    """Whether the weights were thrown away, or the run grew until it was no longer finite."""
    if windows.first_nonfinite(recording) is not None:
        run = run_up(recording)
        return run.norm_growth > options.growth or run.loss_growth > options.growth
    limits = LearningRateTooHigh.options
    return moved.farthest > limits.distance and bool(signs(limits, moved, learning))


def _passed(
    options: Options, inputs: tuple[EnteringTensor, ...], target: TargetScale | None
) -> Passed:
    limits = [held for tensor in inputs for held in _held(options, tensor)]
    if target is not None and target.rms > 0:
        said = f"the targets have an RMS of {number(target.rms)}, the limit is "
        limits.append(Held(options.target / target.rms, f"{said}{number(options.target)}"))
    near = nearest(limits)
    return passed(replace(near, said=near.said or _measured(inputs, target)))


def _held(options: Options, tensor: EnteringTensor) -> list[Held]:
    """How far an input is from being large, small or off centre."""
    name = f"input {tensor.position} of {code(tensor.root)}"
    scale = f"{name} has an RMS of {number(tensor.rms)}; the limits are {number(options.small)} "
    scale += f"and {number(options.large)}"
    found = []
    if tensor.rms > 0:
        found.append(Held(options.large / tensor.rms, scale))
        # small only where the largest value is small, too
        small = max(tensor.rms / options.small, tensor.max_abs / options.small_max)
        found.append(Held(small, scale))
    offsets = [tensor.offset]
    if tensor.std > 0:
        offsets.append(abs(tensor.mean) / tensor.std)
    offset = max((x for x in offsets if x > 0), default=math.nan)
    found.append(
        Held(
            options.offset / offset,
            f"the mean of {name} is {number(offset)} standard deviations from 0, the limit is "
            f"{number(options.offset)}",
        )
    )
    return found


def _measured(inputs: tuple[EnteringTensor, ...], target: TargetScale | None) -> str:
    parts = [f"input {x.position} of {code(x.root)} has an RMS of {number(x.rms)}" for x in inputs]
    parts += [f"the targets have an RMS of {number(target.rms)}"] if target is not None else []
    return ", ".join(parts)


def _verdict(
    recording: Recording, learning: Learning, confidence: Confidence
) -> tuple[Severity, Confidence]:
    if windows.first_nonfinite(recording) is not None:
        return "critical", confidence
    return judged("warning", confidence, learning)


def _input(
    recording: Recording,
    options: Options,
    tensor: EnteringTensor,
    kind: str,
    learning: Learning,
    thrown: bool,
) -> Finding:
    # hardly below the limit of the gate, and nothing blew up: it may have learned all there is
    doubtful = (
        learning.excess <= EARLY_EXCESS
        and learning.first_excess <= options.first_loss
        and kind != "input-small"
        and not thrown
    )
    severity, confidence = _verdict(recording, learning, "tentative" if doubtful else "strong")
    limit = {"input-large": options.large, "input-small": options.small}.get(kind)
    mean, std = number(tensor.mean), number(tensor.std)
    what = {
        "input-large": f"is large: RMS {number(tensor.rms)}",
        "input-small": f"is small: RMS {number(tensor.rms)}, nothing above "
        f"{number(tensor.max_abs)}",
        "input-offset": f"is nearly a constant: mean {mean}, standard deviation {std}",
    }[kind]
    if kind == "input-offset" and tensor.offset > options.offset:
        what = (
            f"is nearly a constant in each feature: the mean is {number(tensor.offset)} standard "
            f"deviations (median over the features)"
        )
    return Finding(
        code=UnscaledInput.code,
        name=UnscaledInput.name,
        severity=severity,
        confidence=confidence,
        summary=f"The input of {code(tensor.reader)} {what}; the first weights are made for mean 0 "
        f"and standard deviation 1.",
        modules=(tensor.reader,),
        location=location_of(recording, tensor.reader),
        first_step=0,
        last_step=windows.last_step(recording),
        evidence=(
            Evidence("RMS of the input", tensor.rms, "", limit),
            Evidence("mean of the input", tensor.mean),
            Evidence("standard deviation of the input", tensor.std),
            Evidence("largest value of the input", tensor.max_abs),
            *(
                (
                    Evidence(
                        "median of |mean| / standard deviation of a feature",
                        tensor.offset,
                        "",
                        options.offset,
                    ),
                )
                if math.isfinite(tensor.offset)
                else ()
            ),
            *_ending(recording, learning),
        ),
        why=f"{_harm(recording, learning)} The gradient of the first weights is as large or small "
        f"as what they read, so that no learning rate fits them and the layers behind.",
        causes=(
            "Features in the units in which they were measured (pixels of 0 to 255, prices, years) "
            f"go straight into the weights: mean {mean}, standard deviation {std}.",
        ),
        kind=kind,
    )


def _target(
    recording: Recording, options: Options, target: TargetScale, learning: Learning
) -> Finding:
    severity, confidence = _verdict(recording, learning, "strong")
    mean, std = number(target.mean), number(target.std)
    return Finding(
        code=UnscaledInput.code,
        name=UnscaledInput.name,
        severity=severity,
        confidence=confidence,
        summary=f"The targets are large: mean {mean}, standard deviation {std}, where a fresh "
        f"model answers with numbers about 0.",
        location=site_location(target.site),
        first_step=0,
        last_step=windows.last_step(recording),
        evidence=(
            Evidence("RMS of the targets", target.rms, "", options.target),
            Evidence("mean of the targets", target.mean),
            Evidence("standard deviation of the targets", target.std),
            *_ending(recording, learning),
        ),
        why=f"{_harm(recording, learning)} Under SGD the gradient grows with the targets; under "
        f"Adam the answers have to travel all the way in steps of the learning rate.",
        causes=(f"Targets in the units in which they were measured: mean {mean}, standard "
                f"deviation {std}.",),
        kind="target",
    )  # fmt: skip


def _harm(recording: Recording, learning: Learning) -> str:
    end = windows.first_nonfinite(recording)
    if end is None:
        return why_harmful(learning)
    return f"Loss or gradient grew until there were NaN or Inf values at step {end}."


def _ending(recording: Recording, learning: Learning) -> tuple[Evidence, ...]:
    rows = list(harm(learning))
    if math.isfinite(learning.first_excess):
        rows.append(Evidence("first loss over that of a constant answer", learning.first_excess))
    end = windows.first_nonfinite(recording)
    return (*rows, *(() if end is None else (Evidence(FIRST_NONFINITE, float(end)),)))


__all__ = ["Options", "UnscaledInput", "kind_of"]
