"""GS101: the gradient loses its size over the depth of the network, or over time in a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Confidence, Evidence, Finding
from gradscope.diagnose.flow import VANISHED, DepthProfile, depth_profile
from gradscope.diagnose.gains import Layer, trained_roots
from gradscope.diagnose.learning import DIVERGED, Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.output_slope import OutputSlope, output_slope
from gradscope.diagnose.rule import (
    Findings,
    Need,
    NotApplicable,
    Outcome,
    Passed,
    Rule,
    Undecided,
)
from gradscope.diagnose.trained import parameter_states
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, count, number, percent
from gradscope.recording.reader import Recording
from gradscope.rules import vanishing_through_time


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS101."""

    decades: float = VANISHED
    """Powers of ten; docs/why/signals.md: above 1.1 recall .83 and false alarms .01 behind the
    gate, the recommended order there asks for 2."""
    steady: float = 0.9
    """Share of the sampled steps on which the limit must be passed to be more than tentative.
    Ours."""
    culprit: float = 0.5
    """Share of the whole loss that makes one layer the cause. Ours: the majority."""
    mild: float = 0.3
    """Decades a layer below which a layer counts as ordinary: it passes on more than half. Ours."""


class VanishingGradient(Rule):
    """The gradient loses its size over the depth of the network."""

    code = "GS101"
    name = "vanishing-gradient"
    title = "The gradient vanishes on its way to the input"
    title_ok = "The gradient reaches every layer"
    family = "flow"
    severity = "critical"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need("activations", 5, why="modules were looked at on too few steps, or are compiled"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the depth of the network, and where nothing is lost there, recurrent layers."""
        depth = self._over_depth(recording, options)
        if isinstance(depth, Findings):
            return depth
        return vanishing_through_time.judge(
            VanishingGradient, recording, options.decades, options.steady, depth
        )

    def _over_depth(self, recording: Recording, options: Options) -> Outcome:
        """Judge each trained root; the one that loses most is reported."""
        output = output_slope(recording)
        if output is not None and output.decades > options.decades:
            learning = gate(recording)
            if learning.harmed:
                return Findings((_at_output(recording, options, output, learning),))
        profiles = [depth_profile(recording, None, root) for root in trained_roots(recording)]
        deep = [p for p in profiles if sum(layer.kind == "weight" for layer in p.layers) >= 2]
        if not deep:
            return NotApplicable(
                "fewer than two layers with weights get a gradient at their output"
            )
        known = [profile for profile in deep if math.isfinite(lost(profile))]
        if not known:
            return Undecided(
                "the gradient at the first layer's output is exactly zero: cut or dead, not small"
            )
        profile = max(known, key=lost)
        decades = lost(profile)
        if decades <= options.decades or not profile.starved:
            return _passed(options, decades)
        learning = gate(recording)
        if learning.state == "early":
            return Undecided(
                f"a small gradient is a fault only if it stops learning: {learning.reason}"
            )
        if learning.state == "learning":
            return Passed(
                None,
                f"the gradient at the first layer is {number(10**-decades)} of that at the last, "
                f"but it trains: {learning.reason}",
            )
        if learning.state == "unknown":
            return Undecided(
                f"a small gradient is a fault only if it stops learning: {learning.reason}"
            )
        return Findings((_finding(recording, options, profile, learning),))


def _passed(options: Options, decades: float) -> Passed:
    limit = f"the limit is {number(10**-options.decades)}"
    if decades <= 0:
        # a gradient that grows toward the input is no farther from vanishing than one that stays
        return Passed(10**options.decades, f"nothing is lost on the way to the input; {limit}")
    return Passed(
        10 ** (options.decades - decades) if decades <= options.decades else None,
        f"the gradient at the first layer is {number(10**-decades)} of that at the last, {limit}",
    )


def _at_output(
    recording: Recording, options: Options, output: OutputSlope, learning: Learning
) -> Finding:
    """The loss's own output function lets nothing through."""
    severity, confidence = judged("critical", "strong", learning)
    small = number(10**-output.decades)
    return Finding(
        code=VanishingGradient.code,
        name=VanishingGradient.name,
        severity=severity,
        confidence=confidence,
        summary=f"The gradient is lost in the {output.function} between {code(output.module)} and "
        f"the loss, before it reaches any weights: only {small} of it arrives.",
        modules=(output.module,),
        location=location_of(recording, output.module),
        first_step=output.first_step,
        last_step=output.last_step,
        evidence=(
            Evidence("gradient lost between the loss and the last layer", output.decades,
                     "decades", options.decades),
            Evidence(f"gradient norm at the output of {output.module or 'the model'}",
                     output.arrives),
            Evidence(f"gradient norm that the loss sends into the {output.function}", output.sent),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} A squared error does not undo the slope of a "
        f"{output.function}, so that answers that are surely wrong send back nothing.",
        causes=(
            f"The inputs of the {output.function} are far from 0: {code(output.module)} begins too "
            f"large or with a bias far off, or a step threw it there.",
            "A loss that undoes the slope does not have this: cross_entropy of the raw scores, or "
            "binary_cross_entropy_with_logits.",
        ),
        kind="saturated-loss",
    )  # fmt: skip


def lost(profile: DepthProfile) -> float:
    """Decades that count: by size, and where gains are known no more than the chain accounts for.

    A pooling over many positions makes the gradient of each smaller without losing anything.
    """
    if not math.isfinite(profile.chain_decades):
        return profile.decades
    return min(profile.decades, profile.chain_decades)


def kind_of(profile: DepthProfile, options: Options) -> str:
    """What loses the gradient.

    Returns:
        ``activation-slope``, ``small-weights``, ``depth`` or ``saturated-loss``.
    """
    weights = [i for i, layer in enumerate(profile.layers) if layer.kind == "weight"]
    behind = profile.layers[weights[-1] + 1 :]
    at_the_end = sum(_decades(layer) for layer in behind if layer.kind == "activation")
    if at_the_end >= options.culprit * profile.decades:
        return "saturated-loss"
    if not math.isfinite(profile.chain_decades):
        return "depth"
    if profile.decades / max(1, len(weights) - 1) < options.mild:
        return "depth"
    return (
        "activation-slope"
        if profile.activation_decades >= profile.weight_decades
        else "small-weights"
    )


def _finding(
    recording: Recording, options: Options, profile: DepthProfile, learning: Learning
) -> Finding:
    kind = kind_of(profile, options)
    layers = {layer.module: layer for layer in profile.layers}
    culprit = _culprit(profile, options)
    first = culprit or profile.stretch[0]
    starved = layers[profile.starved[0]]
    strongest = max(profile.layers, key=lambda layer: layer.norm if layer.norm > 0 else 0.0)
    start = windows.first_window(recording, "activations")
    early = depth_profile(recording, start, profile.root)
    confidence: Confidence = "strong"
    # a learning rate that threw the weights away also leaves small gains behind: not the cause then
    grown_late = lost(early) < 1 and learning.peak_excess > DIVERGED
    if profile.share_lost < options.steady or grown_late:
        confidence = "tentative"
    severity, confidence = judged("critical", confidence, learning)
    also = tuple(dict.fromkeys((*profile.stretch, *profile.starved)))
    states = {s.name: s for s in parameter_states(recording) if s.module == first and s.matrix}
    return Finding(
        code=VanishingGradient.code,
        name=VanishingGradient.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(kind, first, starved, strongest, profile),
        modules=(first,),
        parameters=tuple(states),
        also=tuple(name for name in also if name != first),
        location=location_of(recording, first),
        first_step=int(start[0]) if lost(early) > options.decades else profile.steps[0],
        last_step=profile.steps[-1],
        evidence=_evidence(profile, options, starved, strongest, [s.ratio for s in states.values()])
        + harm(learning),
        why=_why(learning, starved, profile),
        causes=_causes(kind, profile),
        kind=kind,
    )


def _summary(kind: str, first: str, starved: Layer, strongest: Layer, profile: DepthProfile) -> str:
    small = f"only {number(starved.norm / strongest.norm)} of it arrives at {code(starved.module)}"
    depth = count(len(profile.stretch), "layer")
    if kind == "saturated-loss":
        return (
            f"The gradient is lost in the activation behind the last layer, before it reaches any "
            f"weights: {small}."
        )
    if first != profile.stretch[0] and first != starved.module:
        return f"The gradient is lost in {code(first)}: {small}."
    return f"The gradient vanishes toward the input from {code(first)}: over {depth}, {small}."


def _why(learning: Learning, starved: Layer, profile: DepthProfile) -> str:
    layers = count(len(profile.starved), "layer")
    return (
        f"{why_harmful(learning)} {layers} from {code(starved.module)} on get a gradient more than "
        f"{number(10**VANISHED)} times smaller than the strongest one, so that what they learn is "
        f"lost beside the rest, and in noise and rounding."
    )


def _causes(kind: str, profile: DepthProfile) -> tuple[str, ...]:
    if not math.isfinite(profile.chain_decades):
        return ("The gains of the single layers are not known, so the cause is not narrowed down.",)
    split = _split(profile.activation_decades, profile.weight_decades)
    texts = {
        "activation-slope": "Activations that pass on too little of the gradient",
        "small-weights": "Weights too small for their activations",
        "depth": "Many layers that each lose a little, and no path around them",
        "saturated-loss": "An output activation that is saturated, with a loss that does not undo "
        "it, as a sigmoid or softmax under a squared error",
    }
    others = [text for key, text in texts.items() if key != kind and key != "saturated-loss"]
    return (f"{texts[kind]} ({split}).", f"Less likely: {others[0][0].lower()}{others[0][1:]}.")


def _split(activations: float, weights: float) -> str:
    """Which part loses how much; a part that amplifies gives back and has no share."""
    slopes, matrices = "the activations' slopes", "the weights"
    if weights < -0.05:
        return f"all of it is lost in {slopes}; {matrices} give back {-weights:.1f} decades"
    if activations < -0.05:
        return f"all of it is lost in {matrices}; {slopes} give back {-activations:.1f} decades"
    lost_there, lost_here = max(0.0, activations), max(0.0, weights)
    total = max(lost_there + lost_here, 1e-9)
    return (
        f"{percent(lost_there / total)} of it is lost in {slopes}, "
        f"{percent(lost_here / total)} in {matrices}"
    )


def _evidence(
    profile: DepthProfile,
    options: Options,
    starved: Layer,
    strongest: Layer,
    ratios: list[float],
) -> tuple[Evidence, ...]:
    decades = lost(profile)
    # the median of a ratio is not the ratio of the medians: where both round to much the same, the
    # number is that of the two norms below it
    told = math.log10(strongest.norm / starved.norm) if starved.norm > 0 else math.nan
    if abs(told - decades) < 0.05 and told > options.decades:
        decades = told
    rows = [
        Evidence(_lost_where(profile), decades, "decades", options.decades),
        # the two numbers whose ratio the summary says
        Evidence(f"gradient norm at the output of {starved.module or 'the model'}", starved.norm),
        Evidence(
            f"gradient norm at the output of {strongest.module or 'the model'}", strongest.norm
        ),
        Evidence("lost for each layer", profile.slope, "decades"),
        Evidence("lost for each layer, 5 % quantile over the steps", profile.slope_low, "decades"),
        Evidence(
            "lost for each layer, 95 % quantile over the steps", profile.slope_high, "decades"
        ),
        Evidence("lost in activations", profile.activation_decades, "decades"),
        Evidence("lost in weights", profile.weight_decades, "decades"),
        Evidence(
            "share of the sampled steps beyond the limit", profile.share_lost, "", options.steady
        ),
    ]
    rows += [Evidence("update ratio of the first layer's weight", ratio) for ratio in ratios[:1]]
    return tuple(row for row in rows if not math.isnan(row.value))


def _lost_where(profile: DepthProfile) -> str:
    """What the decades that count are: by size, or what weights and activations account for."""
    if profile.decades - lost(profile) > 0.05:
        return "gradient lost in weights and activations, without poolings and the like"
    return "gradient lost on the way to the input"


def _culprit(profile: DepthProfile, options: Options) -> str:
    """The one layer with most of the loss, "" where the loss is spread."""
    worst = max(profile.layers, key=_decades)
    if _decades(worst) < options.culprit * profile.decades:
        return ""
    return worst.module


def _decades(layer: Layer) -> float:
    return -math.log10(layer.gain) if layer.gain > 0 and math.isfinite(layer.gain) else 0.0


__all__ = ["Options", "VanishingGradient", "kind_of", "lost"]
