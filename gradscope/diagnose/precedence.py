"""First cause first: which finding explains which, in one ordered table.

Rules do not read each other's results. Each says what it sees; then this table is walked from top
to bottom, and where a cause stands that explains another finding, that finding goes and its names
are kept in the cause's ``also``. A tentative finding explains nothing away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gradscope.diagnose.finding import Finding

FIRST_NONFINITE = "first non-finite step"
"""Name of the evidence by which a finding of growth says that it ended in NaN or Inf."""
OUTSIDE = "share of the trainable elements"
"""Name of the evidence by which a finding says how much of the network it is about."""

Condition = Callable[[Finding, Finding], bool]

MOST = 0.5
"""A cause that takes at least this share of the trainable elements out of the training explains
what the rest of the network looks like; a single forgotten bias does not. Our choice."""


def harms(cause: Finding, _effect: Finding) -> bool:
    """The cause is more than a note."""
    return cause.severity != "note"


def came_first(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and was there before the effect."""
    return harms(cause, effect) and cause.first_step < effect.first_step


def wrong_input(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, or it bounds the loss: what a bounded loss looks like is no cause."""
    return harms(cause, effect) or cause.kind in ("softmax-twice", "sigmoid-twice")


def covers_most(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful and about most of the network."""
    share = _value(cause, OUTSIDE)
    return harms(cause, effect) and share is not None and share >= MOST


def from_input(cause: Finding, _effect: Finding) -> bool:
    """The non-finite value came in with the data."""
    return cause.origin is not None and cause.origin.phase == "input"


def ends_it(cause: Finding, _effect: Finding) -> bool:
    """The growth ended in a non-finite value."""
    return _value(cause, FIRST_NONFINITE) is not None


def mild(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, the effect only a note."""
    return harms(cause, effect) and effect.severity == "note"


def left_behind(cause: Finding, effect: Finding) -> bool:
    """The tensors without a gradient are those that the model's new ones replaced."""
    return cause.kind == "replaced" and not effect.modules


def exact_zero(_cause: Finding, effect: Finding) -> bool:
    """The effect is a gradient that is exactly zero, not one that is absent."""
    return effect.kind == "zero"


def on_the_way(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the effect is a gradient that was large enough at the loss."""
    return harms(cause, effect) and effect.kind == "depth"


def of_rate(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the number format has no part in the effect."""
    return harms(cause, effect) and effect.kind == "learning-rate"


def of_format(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the number format is its reason."""
    return harms(cause, effect) and cause.kind == "format"


def happened_later(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the effect was not there from the start."""
    return harms(cause, effect) and effect.kind in ("learning-rate", "training")


def by_depth(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the effect builds up from layer to layer."""
    return harms(cause, effect) and effect.kind == "depth"


def in_one_layer(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful and does not build up from layer to layer."""
    return harms(cause, effect) and cause.kind != "depth"


def no_gradients_left(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful: the gradients are cleared before they are used."""
    return harms(cause, effect) and cause.kind == "cleared"


def by_rate(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and a growth or a zero among the effects is one of the run's course."""
    kinds = {"GS102": "learning-rate", "GS104": "zero"}
    return harms(cause, effect) and effect.kind == kinds.get(effect.code, effect.kind)


def never_differ(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and units that begin alike."""
    return harms(cause, effect) and cause.kind == "symmetric"


def not_by_rate(cause: Finding, effect: Finding) -> bool:
    """The growth is harmful, and over depth or time, or it ended in NaN or Inf."""
    return harms(cause, effect) and (cause.kind != "learning-rate" or ends_it(cause, effect))


def small_weights(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the effect is weights that are too small."""
    return harms(cause, effect) and effect.kind == "small"


def over_time(cause: Finding, effect: Finding) -> bool:
    """The cause is harmful, and the effect a gradient that vanishes within a recurrent layer."""
    return harms(cause, effect) and effect.code == "GS101" and effect.kind == "through-time"


_LAST_OF_ALL = "a recurrent layer loses much of its gradient over time in healthy trainings, too"


@dataclass(frozen=True, slots=True)
class Precedence:
    """One row: a finding of ``cause`` explains those of ``effects`` where ``when`` holds."""

    cause: str
    effects: tuple[str, ...]
    when: Condition
    why: str


_BEFORE_TIME = (
    "GS102", "GS103", "GS104", "GS106", "GS201", "GS202", "GS203", "GS301", "GS302", "GS303",
    "GS401", "GS402", "GS403", "GS404", "GS501", "GS502", "GS503", "GS504", "GS506",
)  # fmt: skip
"""Causes that go before a loss over time: every fault of the loop, the loss and the signal. A
direction that is all noise (GS105) and a loss that does not fall (GS505) are what it looks like."""

TABLE: tuple[Precedence, ...] = (
    *(Precedence(cause, ("GS101",), over_time, _LAST_OF_ALL) for cause in _BEFORE_TIME),
    Precedence("GS201", ("GS102",), from_input,
               "data that already holds a NaN or an Inf did not grow"),
    Precedence("GS103", ("GS102", "GS201", "GS301", "GS302", "GS303", "GS401", "GS404", "GS504",
                         "GS505"), ends_it,
               "one batch, unlike all before it, threw the weights away"),
    Precedence("GS102", ("GS201",), ends_it,
               "the gradient grew until it left the range of numbers: the operation that met it "
               "first is where the growth ended, not where it began"),
    Precedence("GS506", ("GS101", "GS104", "GS203", "GS301", "GS402", "GS505"), no_gradients_left,
               "steps on cleared gradients move nothing, whatever the layers look like"),
    Precedence("GS506", ("GS102", "GS103", "GS401", "GS505"), harms,
               "gradients that are not limited, or used twice, throw the weights away"),
    Precedence("GS501", ("GS101", "GS102", "GS103", "GS301", "GS302", "GS303", "GS401", "GS404",
                         "GS505"), harms,
               "steps along a sum of old gradients grow and overshoot like those of too high a "
               "learning rate, and leave dead units behind"),
    Precedence("GS503", ("GS101", "GS102", "GS104", "GS106", "GS301", "GS302", "GS303", "GS401",
                         "GS402", "GS404", "GS505"), wrong_input,
               "what a loss asks for that gets the wrong input says nothing about the layers"),
    Precedence("GS201", ("GS101", "GS104", "GS301", "GS505"), harms,
               "behind a NaN nothing can be learned, and every comparison with it is false"),
    Precedence("GS201", ("GS202",), harms,
               "a loss scaler cannot mend a NaN: it skips for ever"),
    Precedence("GS201", ("GS103", "GS105", "GS302", "GS303"), harms,
               "behind a NaN no step has a history and no sample differs from another"),
    Precedence("GS403", ("GS105", "GS302", "GS303"), covers_most,
               "a network that no optimizer moves keeps its first slopes"),
    Precedence("GS504", ("GS103", "GS105", "GS106", "GS302", "GS303"), harms,
               "an input of a large scale saturates units, one of a large offset makes samples "
               "look alike, and a target of a large scale drowns the other losses"),
    Precedence("GS404", ("GS302", "GS303"), harms,
               "weights of a wrong size saturate units and hide what tells samples apart"),
    Precedence("GS501", ("GS103", "GS105", "GS302", "GS303"), harms,
               "gradients that pile up make every step larger than the one before"),
    Precedence("GS102", ("GS103", "GS105", "GS302", "GS303"), harms,
               "a gradient that grows step by step is no single spike"),
    Precedence("GS401", ("GS103", "GS105", "GS302", "GS303"), harms,
               "steps that are too large undo each other and throw the weights away"),
    Precedence("GS103", ("GS301", "GS302", "GS303"), happened_later,
               "one bad step threw the weights to where units are flat"),
    Precedence("GS103", ("GS505",), harms,
               "one bad step undid what had been learned"),
    Precedence("GS202", ("GS105", "GS303"), harms,
               "what is rounded to zero has no direction"),
    Precedence("GS503", ("GS105", "GS302", "GS303"), harms,
               "a loss that reads the wrong thing teaches nothing"),
    Precedence("GS506", ("GS103", "GS105"), harms,
               "a stale gradient has nothing to do with the step that uses it"),
    Precedence("GS301", ("GS105", "GS302", "GS303"), harms,
               "behind a dead layer all samples look the same"),
    Precedence("GS302", ("GS101", "GS105", "GS303", "GS402", "GS505"), harms,
               "a flat activation passes on neither gradient nor differences"),
    Precedence("GS101", ("GS105", "GS303"), harms,
               "layers that starve learn from noise and keep samples alike"),
    Precedence("GS106", ("GS402", "GS505"), harms,
               "a term that is drowned by another does not fall"),
    Precedence("GS303", ("GS105", "GS402", "GS505"), in_one_layer,
               "where all samples look the same there is nothing to learn from them"),
    Precedence("GS303", ("GS301",), mild,
               "where all samples look the same, biases decide which units are active"),
    Precedence("GS402", ("GS303",), by_depth,
               "samples look alike in a deep network until it has been trained"),
    Precedence("GS303", ("GS105", "GS402", "GS505"), harms,
               "where all samples look the same there is nothing to learn from them"),
    Precedence("GS105", ("GS402", "GS505"), harms,
               "where noise decides the direction nothing is learned"),
    Precedence("GS403", ("GS101", "GS102", "GS301"), covers_most,
               "a network that no optimizer moves keeps its first gains and its dead units"),
    Precedence("GS403", ("GS104",), left_behind,
               "the optimizer still holds the tensors that were replaced"),
    Precedence("GS201", ("GS401", "GS402", "GS404", "GS504"), harms,
               "a NaN without growth before it is no matter of scale"),
    Precedence("GS403", ("GS402", "GS404", "GS504"), covers_most,
               "weights that no optimizer moves keep whatever they began with"),
    Precedence("GS504", ("GS101", "GS102", "GS104", "GS301", "GS401", "GS402", "GS505"), by_rate,
               "what enters at the wrong scale sets the size of signal and gradient: they blow up, "
               "flatten or never arrive at a learning rate that is usual for scaled data"),
    Precedence("GS404", ("GS101", "GS102", "GS104", "GS301", "GS401", "GS402", "GS505"),
               never_differ,
               "units that begin alike stay alike, and a network of zeros has no gradient"),
    Precedence("GS102", ("GS401", "GS402", "GS404"), not_by_rate,
               "growth over the depth or up to a NaN says more than the size of steps or weights"),
    Precedence("GS101", ("GS404",), small_weights,
               "small weights show in the gains of the layers that they starve"),
    Precedence("GS404", ("GS301", "GS401", "GS402", "GS505"), harms,
               "weights of a wrong scale set what activations and steps make of it"),
    Precedence("GS401", ("GS101", "GS102", "GS104", "GS301", "GS505"), by_rate,
               "steps that throw the weights away kill units, flatten activations and make the "
               "gradient grow"),
    Precedence("GS102", ("GS101", "GS104", "GS301", "GS505"), harms,
               "weights thrown far away kill units, flatten activations and keep the loss up"),
    Precedence("GS301", ("GS104",), exact_zero,
               "no gradient passes a layer of dead units: before it, it is exactly zero"),
    Precedence("GS101", ("GS301",), came_first,
               "weights that were too small from the start let units die one after the other"),
    Precedence("GS301", ("GS101", "GS505"), harms,
               "a dead layer passes neither signal nor gradient"),
    Precedence("GS101", ("GS202",), on_the_way,
               "a gradient that shrinks from layer to layer ends below any format's floor"),
    Precedence("GS202", ("GS101", "GS104", "GS203", "GS402", "GS505"), harms,
               "what is rounded to zero reaches no layer and moves no weight"),
    Precedence("GS502", ("GS203", "GS402", "GS505"), harms,
               "steps whose length the clip decides are too short for any learning rate"),
    Precedence("GS101", ("GS203",), harms,
               "a gradient that has vanished moves nothing in any format"),
    Precedence("GS203", ("GS402", "GS505"), of_format,
               "updates that are rounded away look like a learning rate of nothing"),
    Precedence("GS402", ("GS203",), of_rate,
               "in 32 bits only a learning rate of nothing leaves a parameter unchanged"),
    Precedence("GS203", ("GS505",), harms,
               "what does not move cannot learn"),
    Precedence("GS101", ("GS402",), harms,
               "where the gradient does not arrive, weights hardly move at any usual rate"),
    Precedence("GS301", ("GS402",), harms,
               "dead units stop the weights before them"),
    Precedence("GS104", ("GS402",), harms,
               "what never gets a gradient moves at no learning rate"),
    Precedence("GS402", ("GS505",), harms,
               "steps that are too small to arrive are why the loss does not fall"),
    Precedence("GS403", ("GS505",), harms,
               "what no optimizer moves cannot learn"),
    Precedence("GS104", ("GS505",), harms,
               "what never gets a gradient cannot learn"),
    Precedence("GS101", ("GS301",), mild,
               "where the signal shrinks from layer to layer, biases decide what is active"),
    Precedence("GS101", ("GS505",), harms,
               "the layers that starve are why the loss does not fall"),
)  # fmt: skip


def arbitrate(
    findings: Sequence[Finding], table: Sequence[Precedence] = TABLE
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, Finding], ...]]:
    """Keep causes, take out what they explain.

    Returns:
        the findings that stand (a cause's ``also`` gains the names of what it explains), and the
        pairs (effect, cause) of those taken out.
    """
    standing = list(findings)
    explained: list[tuple[Finding, Finding]] = []
    for row in table:
        for index, cause in enumerate(standing):
            if cause.code != row.cause or cause.confidence == "tentative":
                continue
            effects = [f for f in standing if f.code in row.effects and row.when(cause, f)]
            if effects:
                cause = _absorb(cause, effects)
                standing[index] = cause
                standing = [f for f in standing if f not in effects]
                explained += [(effect, cause) for effect in effects]
                break
    return tuple(standing), tuple(explained)


def _absorb(cause: Finding, effects: Sequence[Finding]) -> Finding:
    named = [*cause.modules, *cause.parameters, *cause.also]
    also = list(cause.also)
    for effect in effects:
        for name in (*effect.modules, *effect.also):
            if name and name not in named and name not in also:
                also.append(name)
    return replace(cause, also=tuple(also))


def _value(finding: Finding, name: str) -> float | None:
    return next((e.value for e in finding.evidence if e.name == name), None)
