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


@dataclass(frozen=True, slots=True)
class Precedence:
    """One row: a finding of ``cause`` explains those of ``effects`` where ``when`` holds."""

    cause: str
    effects: tuple[str, ...]
    when: Condition
    why: str


TABLE: tuple[Precedence, ...] = (
    Precedence("GS201", ("GS102",), from_input,
               "data that already holds a NaN or an Inf did not grow"),
    Precedence("GS102", ("GS201",), ends_it,
               "the gradient grew until it left the range of numbers: the operation that met it "
               "first is where the growth ended, not where it began"),
    Precedence("GS201", ("GS101", "GS104", "GS301", "GS505"), harms,
               "behind a NaN nothing can be learned, and every comparison with it is false"),
    Precedence("GS403", ("GS101", "GS102", "GS301"), covers_most,
               "a network that no optimizer moves keeps its first gains and its dead units"),
    Precedence("GS403", ("GS104",), left_behind,
               "the optimizer still holds the tensors that were replaced"),
    Precedence("GS102", ("GS101", "GS104", "GS301", "GS505"), harms,
               "weights thrown far away kill units, flatten activations and keep the loss up"),
    Precedence("GS301", ("GS104",), exact_zero,
               "no gradient passes a layer of dead units: before it, it is exactly zero"),
    Precedence("GS301", ("GS101", "GS505"), harms,
               "a dead layer passes neither signal nor gradient"),
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
