"""GS104: a parameter that the optimizer holds never gets a gradient."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Limits of GS104."""

    least_steps: int = 5
    """Sampled steps before "never" is said: a head may be used every other batch, and LoRA's A and
    zero-initialised branches get an exact zero in the first step only. Ours."""
    most: float = 0.5
    """Share of the trainable elements above which parts that nothing uses are no leftover but a
    mistake. Ours: the majority."""


_WORDS = {
    "detached": "the graph is cut before it",
    "no-grad": "its forward pass runs without gradients",
    "integer": "its result is made into whole numbers, which have no gradient",
    "unused": "the loss does not use it",
    "other": "the loss's graph does not reach it",
    "zero": "its gradient is exactly zero on every step",
}
_GIVEN = {"zero": "steps with a gradient other than zero"}
_COUNTED = {"zero": "parameters whose gradient is exactly zero"}
_FIXES = {
    "detached": "A `detach()`, `.data`, `.item()` or a copy through NumPy in the forward pass.",
    "no-grad": "A `torch.no_grad()` or `inference_mode()` around part of the forward pass.",
    "integer": "An `argmax`, a rounding or a comparison between it and the loss.",
    "unused": "Its result does not enter the loss: a leftover, or a forgotten call.",
    "other": "Not narrowed down: a cut was not seen in the examined steps.",
    "zero": "Something multiplies it by zero: a factor, a mask, or units that are all dead.",
}


class NoGradient(Rule):
    """A parameter that the optimizer holds never gets a gradient."""

    code = "GS104"
    name = "no-gradient"
    title = "Parameters never get a gradient"
    title_ok = "Every parameter that the optimizer holds gets a gradient"
    family = "flow"
    severity = "warning"
    since = "0.1.0"
    needs = (Need("gradients", 1, why="no gradient was looked at"), Need("parameters"))
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge held parameters that require grad; frozen ones are no finding."""
        states = parameter_states(recording)
        held = [s for s in states if s.held and s.requires_grad]
        if not held:
            return NotApplicable("no optimizer holds a parameter that requires grad")
        seen = [s for s in held if s.sampled >= options.least_steps]
        if not seen:
            most = max(s.sampled for s in held)
            return Undecided(
                f"gradients were looked at on {most} steps, {options.least_steps} needed"
            )
        learning = gate(recording)
        findings = []
        for kind, members in _groups(seen):
            findings.append(_finding(recording, kind, members, held, learning, options))
        if findings:
            return Findings(tuple(findings))
        return Passed(None, f"all of {count(len(seen), 'parameter')} got a gradient")


def _groups(seen: Iterable[ParameterState]) -> list[tuple[str, list[ParameterState]]]:
    """Parameters without a gradient by cause: same kind, and same cut where one is known."""
    groups: dict[tuple[str, str], list[ParameterState]] = {}
    for state in seen:
        if state.present:
            continue
        if state.none == state.sampled:
            kind = state.reason if state.reason in _WORDS else _guess(state)
            groups.setdefault((kind, str(state.cut)), []).append(state)
        # a bias or a scale may get an exact zero by symmetry; a whole matrix does not
        elif state.zero and state.matrix:
            groups.setdefault(("zero", ""), []).append(state)
    return [(kind, members) for (kind, _), members in _behind_cuts(groups).items()]


def _behind_cuts(
    groups: dict[tuple[str, str], list[ParameterState]],
) -> dict[tuple[str, str], list[ParameterState]]:
    """Parameters without a known reason belong to the first cut that is built after them.

    The order of construction stands for that of the calls, which code under no_grad does not have.
    """
    cuts = {
        key: max(state.parameter_id for state in members)
        for key, members in groups.items()
        if key[0] in ("detached", "no-grad", "integer")
    }
    unknown = groups.get(("other", "None"), [])
    for state in list(unknown):
        later = [key for key, last in cuts.items() if last > state.parameter_id]
        if later:
            groups[min(later, key=cuts.__getitem__)].append(state)
            unknown.remove(state)
    return {key: members for key, members in groups.items() if members}


def _guess(state: ParameterState) -> str:
    """Without a reason in the recording: a module that is never called is unused."""
    return "unused" if state.order is None and state.module_id >= 0 else "other"


def _finding(
    recording: Recording,
    kind: str,
    members: list[ParameterState],
    held: list[ParameterState],
    learning: Learning,
    options: Options,
) -> Finding:
    share = sum(s.count for s in members) / max(1, sum(s.count for s in held))
    modules = tuple(dict.fromkeys(s.module for s in members if s.module_id >= 0))
    cut = next((s.cut for s in members if s.cut), None)
    severity = _severity(kind, share, learning, options)
    return Finding(
        code=NoGradient.code,
        name=NoGradient.name,
        severity=severity,
        confidence="certain",
        summary=_summary(kind, members, modules, cut),
        modules=modules[:1],
        parameters=tuple(s.name for s in members if s.module == members[0].module),
        also=modules[1:],
        location=cut or (location_of(recording, modules[0]) if modules else None),
        first_step=int(windows.sampled_steps(recording, "gradients")[0]),
        last_step=int(windows.last_window(recording, "gradients")[-1]),
        evidence=(
            Evidence(_GIVEN.get(kind, "steps with a gradient"), 0.0, f"of {members[0].sampled}"),
            Evidence(OUTSIDE, share),
            Evidence(
                _COUNTED.get(kind, "parameters without a gradient"), float(len(members)), "", 0.0
            ),
        ),
        why=_why(severity, share, learning),
        causes=(_cause(kind, members),),
        kind=kind,
    )


def _severity(kind: str, share: float, learning: Learning, options: Options) -> Severity:
    # what is cut off was meant to learn, and the loss may fall by the rest alone, sooner or later:
    # the verdict on a cut must not turn with the length of the run
    cut = kind not in ("unused", "zero")
    if not cut and learning.at_ease(share):
        return "note"
    if share > options.most and (cut or learning.harmed):
        return "critical"
    # what is not used may be a leftover
    if not cut and share <= options.most and not _stopped(kind, learning):
        return "note"
    return "warning"


def _stopped(kind: str, learning: Learning) -> bool:
    return kind == "zero" and learning.harmed


def _summary(
    kind: str, members: list[ParameterState], modules: tuple[str, ...], cut: object
) -> str:
    who = listing(modules) if modules else listing([s.name for s in members])
    verb = "gets" if len(modules or members) == 1 else "get"
    where = f" at {cut}" if cut else ""
    operation = next((s.operation for s in members if s.operation), "")
    by = f" by `{operation}`" if operation and kind in ("detached", "no-grad", "integer") else ""
    reason = _WORDS[kind]
    if kind == "zero":
        return f"The gradient of {who} is exactly zero on every step."
    if len(modules or members) > 1:
        reason = reason.replace("before it", "before them").replace("its ", "their ")
        reason = reason.replace("use it", "use them").replace("reach it", "reach them")
    return f"{who} never {verb} a gradient: {reason}{by}{where}."


def _why(severity: Severity, share: float, learning: Learning) -> str:
    text = (
        f"{percent(share)} of the elements that the optimizer holds stay as they were initialised."
    )
    if severity == "note":
        return f"{text} The training does not suffer from it now ({learning.reason})."
    return text


def _cause(kind: str, members: list[ParameterState]) -> str:
    cut = next((s for s in members if s.cut), None)
    if cut and cut.operation:
        return f"`{cut.operation}` at {cut.cut} stands between it and the loss."
    return f"{_FIXES[kind]} {code(members[0].module)} is the first of them."
