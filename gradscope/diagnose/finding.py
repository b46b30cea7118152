"""The words of a diagnosis as data: findings, their evidence, their fixes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

Severity = Literal["critical", "warning", "note"]
Confidence = Literal["certain", "strong", "tentative"]
Applicability = Literal["exact", "placeholders", "may-change-results", "idea"]
TrialStatus = Literal["helped", "no-effect", "hurt", "failed", "not-tried"]
Phase = Literal["forward", "backward", "input", "parameter"]

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")
"""Worst first. Severity is the harm if the finding is true; how sure it is, is Confidence."""


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's code; ``file`` is relative to the working directory where possible."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured number, the limit it was compared with, and its unit.

    ``value`` may be NaN or infinite; renderers decide how to write it.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that went into the operation of an origin, or came out of it.

    Attributes:
        role: ``input`` or ``output``.
        shape: its shape.
        dtype: its number format, e.g. ``float32``.
        low, high: least and largest finite element, None where there is none.
        nans, infs: number of NaN and infinite elements.
        at: the element that stands where the output is first not finite, as text; "" if not known.
    """

    role: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    nans: int = 0
    infs: int = 0
    at: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """The first operation whose output is non-finite while its inputs are finite."""

    operation: str
    """ATen name without namespace; for a backward birth that of its forward operation."""
    phase: Phase
    module: str
    location: Location | None
    samples: tuple[int, ...] = ()
    """Indices along axis 0 of the batch that hold the value; empty if not known."""
    reason: str = ""
    operands: tuple[Operand, ...] = ()
    rank: int | None = None
    """The rank on which it was made; None for a training of one process."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The gradient that reaches a layer's output, without a fix and with it.

    Attributes:
        module: the layer's name, in the order of the forward pass.
        control, treated: root mean square of the loss gradient at its output on the last step of a
            trial, NaN where none arrived.
    """

    module: str
    control: float
    treated: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened when a fix was tried against a control.

    Both were trained from the same state, on the same batches, over several seeds.

    Attributes:
        status: ``helped`` (better over all seeds, where the control fails), ``no-effect``,
            ``hurt`` (worse over all seeds), ``failed`` (the changed training could not be run) or
            ``not-tried``.
        reason: why, as a phrase without a full stop; None only for a fix of which nothing is known.
        seeds, steps: seeds tried, and steps of each training.
        loss_control, loss_treated: ``measure`` at the end (median over the last fifth of the
            steps), one number for each seed, infinite where it was no longer finite.
        measure: ``loss``, or ``error`` (share of wrong answers) where the change gives the loss
            another scale.
        curves_control, curves_treated: ``measure`` on each step, one row for each seed.
        reach: the gradient at each layer, from the first seed.
    """

    status: TrialStatus
    reason: str | None
    seeds: int = 0
    steps: int = 0
    loss_control: tuple[float, ...] = ()
    loss_treated: tuple[float, ...] = ()
    measure: Literal["loss", "error"] = "loss"
    curves_control: tuple[tuple[float, ...], ...] = ()
    curves_treated: tuple[tuple[float, ...], ...] = ()
    reach: tuple[Reach, ...] = ()


NOT_TRIED = Trial("not-tried", "trials were not asked for")


@dataclass(frozen=True, slots=True)
class Mended:
    """A trial of several fixes together, because fixes interact.

    Attributes:
        fixes: code of the finding, and title of its fix, of each that took part.
        trial: what came of it.
    """

    fixes: tuple[tuple[str, str], ...]
    trial: Trial


@dataclass(frozen=True, slots=True)
class Fix:
    """A change for one layer or the loop."""

    name: str
    """One of the names in gradscope.advise.fixes.FIXES."""
    title: str
    """Imperative, one line: "put a BatchNorm1d after `layers.3`"."""
    reason: str
    """Why it should help, from this finding's own evidence."""
    diff: str | None
    """Unified diff against the user's file, or None where the line could not be found."""
    applicability: Applicability
    snippet: str | None = None
    """Code to adapt, where no diff can be made."""
    cost: str = ""
    """What it changes or costs besides."""
    trial: Trial = NOT_TRIED


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, found by one rule.

    ``modules`` and ``parameters`` name the cause first; what only suffers from it is in ``also``.
    """

    code: str
    name: str
    severity: Severity
    confidence: Confidence
    summary: str
    """One sentence, a person could say it aloud; it names the layer."""
    modules: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    location: Location | None = None
    first_step: int = 0
    last_step: int = 0
    evidence: tuple[Evidence, ...] = ()
    why: str = ""
    """Why it matters in this run, with its numbers."""
    causes: tuple[str, ...] = ()
    """Likely causes, most likely first, each with what supports it."""
    kind: str = ""
    """Sub-kind for the fixes and the fingerprint, e.g. "activation-slope", "detached"."""
    origin: Origin | None = None
    fixes: tuple[Fix, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.code} {self.name} ({self.severity}, {self.confidence}): {self.summary}"

    @property
    def has_steps(self) -> bool:
        """Whether it was seen over steps; a finite-difference check compares at one point."""
        return self.code != "GS601"

    @property
    def fingerprint(self) -> str:
        """sha256 of code, first module's path and kind: stable over numbers, lines and steps."""
        first = self.modules[0] if self.modules else (self.parameters[0] if self.parameters else "")
        text = "\0".join((self.code, first, self.kind))
        # a name may hold half of a surrogate pair, which strict UTF-8 refuses
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def with_fixes(self, fixes: tuple[Fix, ...]) -> Finding:
        """This finding with ``fixes``."""
        return replace(self, fixes=fixes)


def worst(findings: tuple[Finding, ...]) -> Severity | None:
    """The worst severity among ``findings``, None if there are none."""
    present = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in present), None)


def worst_first(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Findings by severity, then confidence, then step, then code."""
    confidences = ("certain", "strong", "tentative")
    return tuple(
        sorted(
            findings,
            key=lambda f: (SEVERITIES.index(f.severity), confidences.index(f.confidence),
                           f.first_step, f.code),
        )
    )  # fmt: skip
