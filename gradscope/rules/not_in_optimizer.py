"""GS403: trainable parameters that no optimizer holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding, Severity
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.precedence import OUTSIDE
from gradscope.diagnose.rule import Findings, Need, NotApplicable, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.trained import ParameterState, parameter_states
from gradscope.diagnose.wording import code, count, listing, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS403."""

    least_steps: int = 5
    """Steps before it is said: an optimizer may be given further parameters when training starts
    (gradual unfreezing changes them later, and the last record counts). Ours."""


class NotInOptimizer(Rule):
    """Trainable parameters that no optimizer holds."""

    code = "GS403"
    name = "not-in-optimizer"
    title = "Parameters are missing from the optimizer"
    title_ok = "Every trainable parameter is in an optimizer"
    family = "updates"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps", 1, why="no step was recorded"),
        Need("gradients", 1, why="no gradient was looked at"),
        Need("parameters"),
    )
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge parameters that require grad and get one; those frozen on purpose are silent."""
        states = parameter_states(recording)
        if not any(s.held for s in states):
            return NotApplicable("no optimizer was seen: the update is written by hand")
        outside = [s for s in states if s.requires_grad and not s.held and _gets_gradient(s)]
        if not outside:
            held = sum(s.held for s in states)
            return Passed(None, f"all of {count(held, 'trained parameter')} are in an optimizer")
        seen = windows.steps_seen(recording)
        if seen < options.least_steps:
            return Undecided(
                f"{count(len(outside), 'parameter')} outside the optimizer after "
                f"{count(seen, 'step')}; {options.least_steps} are needed"
            )
        return Findings((_finding(recording, states, outside, gate(recording)),))


def _gets_gradient(state: ParameterState) -> bool:
    if state.sampled:
        return state.present > 0
    return state.reached is True


def _kind(states: tuple[ParameterState, ...], outside: list[ParameterState]) -> str:
    if all(not s.registered for s in outside):
        return "unregistered"
    # the optimizer holds tensors that are in no module any more: the model's were replaced since
    if any(s.held and s.module_id < 0 and not s.present for s in states):
        return "replaced"
    return "missing"


def _finding(
    recording: Recording,
    states: tuple[ParameterState, ...],
    outside: list[ParameterState],
    learning: Learning,
) -> Finding:
    kind = _kind(states, outside)
    trainable = [s for s in states if s.requires_grad and (s.held or s in outside)]
    share = sum(s.count for s in outside) / max(1, sum(s.count for s in trainable))
    modules = tuple(dict.fromkeys(s.module for s in outside if s.module_id >= 0))
    probe = _is_probe(states, outside)
    severity = _severity(probe, share, learning)
    norms = [s.norm for s in outside if not math.isnan(s.norm)]
    evidence = [
        Evidence("parameters outside", float(len(outside)), f"of {len(trainable)}", 0.0),
        Evidence(OUTSIDE, share),
    ]
    if norms:
        evidence.append(Evidence("largest gradient norm among them", max(norms), "", 0.0))
    return Finding(
        code=NotInOptimizer.code,
        name=NotInOptimizer.name,
        severity=severity,
        confidence="certain",
        summary=_summary(kind, outside, modules),
        modules=modules[:1],
        parameters=tuple(s.name for s in outside),
        also=modules[1:],
        location=location_of(recording, modules[0]) if modules else None,
        first_step=int(recording.steps["step"].iloc[0]),
        last_step=windows.last_step(recording),
        evidence=tuple(evidence),
        why=_why(severity, share, learning),
        causes=_causes(kind, modules),
        kind=kind,
    )


def _is_probe(states: tuple[ParameterState, ...], outside: list[ParameterState]) -> bool:
    """Whether everything outside is called before everything inside: a head on a fixed body."""
    inside = [s.order for s in states if s.held and s.order is not None]
    before = [s.order for s in outside if s.order is not None]
    return bool(inside) and bool(before) and max(before) < min(inside)


def _severity(probe: bool, share: float, learning: Learning) -> Severity:
    if learning.state in ("stuck", "diverged") and share >= 0.5:
        return "critical"
    # a head that learns well on a body which is left as it is may be meant, and does no harm; a
    # layer that was forgotten among others is a mistake however well the others do without it
    return "note" if probe and learning.at_ease(share) else "warning"


def _summary(kind: str, outside: list[ParameterState], modules: tuple[str, ...]) -> str:
    one = len(outside) == 1
    who = listing(modules) if modules else listing([s.name for s in outside])
    amount = count(len(outside), "parameter")
    if kind == "replaced":
        was = "was" if len(modules or outside) == 1 else "were"
        return (
            f"{who} {was} replaced after the optimizer was built: it still holds the old "
            f"parameters, and the {amount} that came instead never "
            f"{'changes' if one else 'change'}."
        )
    verb = "gets a gradient but is" if one else "get gradients but are"
    if kind == "unregistered":
        return (
            f"{amount} of {who} {verb} in no optimizer: the model keeps them in a plain list or "
            f"dict, so that parameters() does not find them."
        )
    end = "it never changes" if one else "they never change"
    return f"{amount} of {who} {verb} in no optimizer, so {end}."


def _why(severity: Severity, share: float, learning: Learning) -> str:
    text = f"{percent(share)} of the trainable elements stay as they were initialised."
    if severity == "note":
        return (
            f"{text} The training learns all the same ({learning.reason}); if the body is fixed on "
            f"purpose, requires_grad_(False) says so and saves its part of the backward pass."
        )
    if learning.harmed:
        return f"{text} {learning.reason[:1].upper()}{learning.reason[1:]}."
    return text


def _causes(kind: str, modules: tuple[str, ...]) -> tuple[str, ...]:
    first = code(modules[0]) if modules else "the parameter"
    return {
        "unregistered": (
            f"{first} is in a Python list or dict: use nn.ModuleList, nn.ModuleDict or "
            "nn.ParameterList, and build the optimizer afterwards.",
        ),
        "replaced": (
            f"{first} was replaced after the optimizer was built: build the optimizer last.",
        ),
        "missing": (
            f"The optimizer was built from a part of the model that leaves out {first}.",
            f"{first} was added after the optimizer was built.",
        ),
    }[kind]
