"""GS404: first weights from which the training cannot start well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.held import Held, nearest, passed
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.start import StartingLayer, starting_layers
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, listing, number
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS404."""

    large: float = 3.0
    """Standard deviation x sqrt(fan in) above which weights are far too large: 1 keeps the variance
    of a linear layer (Glorot and Bengio 2010), 1.4 that behind a ReLU (He et al. 2015); twice
    that."""
    small: float = 0.1
    """The same below which they are far too small: PyTorch's own layers begin at 0.58. Ours, a
    sixth of that."""
    first_loss: float = 1.25
    """First loss over the trivial one beside which large weights count; docs/why/signals.md, "Peak
    and first loss": recall .79, false alarms .06 alone."""
    most: float = 0.5
    """Share of the layers with weights that must be too small. Ours: one small head is common
    practice, most layers are not."""


class PoorInitialization(Rule):
    """Equal units that stay equal, or weights of a scale that no signal survives."""

    code = "GS404"
    name = "poor-initialization"
    title = "The initial weights are poor"
    title_ok = "The initial weights differ from each other and have a usual scale"
    family = "updates"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need(
            "parameters.initial_std",
            why="the weights were not looked at before the first step",
        ),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge symmetry first, then the scale."""
        layers = starting_layers(recording)
        if not layers:
            return NotApplicable("no trained layer has a weight matrix")
        learning = gate(recording)
        equal = symmetric(layers)
        large = [x for x in layers if x.scale > options.large]
        large = large if learning.first_excess > options.first_loss else []
        small = [x for x in layers if 0 < x.scale < options.small]
        small = small if len(small) > options.most * len(layers) else []
        kind = "symmetric" if equal else "large" if large else "small" if small else ""
        if not kind:
            return _passed(options, layers)
        if learning.state == "learning":
            return Passed(None, f"{_measured(layers)}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"odd first weights are a fault only if they do harm: "
                             f"{learning.reason}")  # fmt: skip
        chosen = equal or large or small
        return Findings((_finding(recording, options, chosen, learning, kind),))


def symmetric(layers: Sequence[StartingLayer]) -> list[StartingLayer]:
    """Layers whose units are all alike and get the same gradient, so that they stay alike.

    All rows are equal, and so are all numbers in the layer behind. A layer of equal rows (a
    zero-initialised head or branch) with ordinary weights behind it, or at the end, leaves that
    state in the first steps.
    """
    return [
        layer
        for layer, behind in pairwise(layers)
        if layer.equal_rows and behind.constant and layer.units > 1
    ]


def _measured(layers: Sequence[StartingLayer]) -> str:
    scales = [x.scale for x in layers if math.isfinite(x.scale)]
    if not scales:
        return "no layer has a fan in"
    return (
        f"standard deviation x sqrt(fan in) lies between {number(min(scales))} and "
        f"{number(max(scales))}"
    )


def _passed(options: Options, layers: Sequence[StartingLayer]) -> Passed:
    scales = sorted(x.scale for x in layers if x.scale > 0)
    said = f"{_measured(layers)}; the limits are {number(options.small)} and "
    said += f"{number(options.large)}"
    if not scales:
        return Passed(None, said)
    # small weights count from the layer on with which they are in the majority
    most = int(options.most * len(layers))
    sides = [Held(options.large / scales[-1], said)]
    sides += [Held(scales[most] / options.small, said)] if most < len(scales) else []
    return passed(nearest(sides))


def _finding(
    recording: Recording,
    options: Options,
    chosen: Sequence[StartingLayer],
    learning: Learning,
    kind: str,
) -> Finding:
    first = chosen[0]
    severity, confidence = judged("warning", "strong", learning)
    names = [layer.module for layer in chosen]
    limit = {"large": options.large, "small": options.small}.get(kind)
    evidence = [
        Evidence(f"standard deviation of {first.parameter} at the start", first.std),
        Evidence("standard deviation x sqrt(fan in)", first.scale, "", limit),
        Evidence("layers like that", float(len(chosen))),
        Evidence("first loss over that of a constant answer", learning.first_excess, "",
                 options.first_loss),
    ]  # fmt: skip
    return Finding(
        code=PoorInitialization.code,
        name=PoorInitialization.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(kind, names, first, learning),
        modules=(first.module,),
        parameters=(first.parameter,),
        also=tuple(names[1:]),
        location=location_of(recording, first.module),
        first_step=0,
        last_step=windows.last_step(recording),
        evidence=(*(row for row in evidence if math.isfinite(row.value)), *harm(learning)),
        why=f"{why_harmful(learning)} {_harm(kind)}",
        causes=_causes(kind, first),
        kind=kind,
    )


def _summary(kind: str, names: Sequence[str], first: StartingLayer, learning: Learning) -> str:
    if kind == "symmetric":
        value = "0" if first.std == 0 and first.mean == 0 else "one value"
        value = value if first.constant else "equal rows"
        return (
            f"All units of {listing(names)} begin alike ({value}) and get the same gradient: "
            f"each layer learns as if it had one unit."
        )
    times = number(first.scale)
    if kind == "large":
        return (
            f"The first weights of {listing(names)} are {times} times the size that keeps the "
            f"signal: the first loss is {number(learning.first_excess)} times that of a constant "
            f"answer."
        )
    return (
        f"The first weights of {listing(names)} are {times} of the size that keeps the signal: "
        f"hardly any of the input arrives at the output."
    )


def _harm(kind: str) -> str:
    return {
        "symmetric": "Units that begin equal and stay equal are one unit, however wide the layer.",
        "large": "The training must first undo the answers that the first weights give.",
        "small": "The gradient of each layer is as small as the product of the others.",
    }[kind]


def _causes(kind: str, first: StartingLayer) -> tuple[str, ...]:
    if kind == "symmetric":
        return (f"{code(first.parameter)} and the weights behind it are filled with a constant.",)
    usual = number(1 / math.sqrt(first.fan_in)) if first.fan_in else "1/sqrt(fan in)"
    return (
        f"{code(first.parameter)} begins with a standard deviation of {number(first.std)} at a fan "
        f"in of {first.fan_in}; {usual} keeps the variance.",
        "Less likely: inputs of another scale.",
    )


__all__ = ["Options", "PoorInitialization", "symmetric"]
