"""GS102: the gradient grows: over the depth at the start, or from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Confidence, Evidence, Finding, Severity
from gradscope.diagnose.flow import DepthProfile, depth_profile
from gradscope.diagnose.gains import trained_roots
from gradscope.diagnose.growth import RunUp, run_up
from gradscope.diagnose.held import UNKNOWN, Held, nearest, passed
from gradscope.diagnose.learning import DIVERGED, Learning, gate
from gradscope.diagnose.locate import location_of
from gradscope.diagnose.precedence import FIRST_NONFINITE
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.trained import ParameterState, parameter_states
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import code, factor, number
from gradscope.recording.reader import Recording

RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "RNNBase", "RNNCellBase")


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS102."""

    depth_decades: float = 1.8
    """Growth toward the input at the start; docs/why/signals.md: recall .52, no false alarm."""
    forward_decades: float = 3.0
    """Growth of the outputs over the depth. Ours: a bias or an output in other units makes two."""
    suspicious_decades: float = 1.0
    """Growth that counts beside a first loss above ``first_loss``. Ours: ten times."""
    first_loss: float = 1.25
    """First loss over the trivial one; docs/why/signals.md: recall .79, false alarms .06."""
    norm: float = 10.0
    """Growth of the total norm over the run. Small healthy trainings stay within a few times their
    first norm; gradient clipping and learning rates are tuned for less. Ours, behind the harm
    gate."""
    loss: float = DIVERGED
    """Growth of the loss above the trivial and the first one; docs/why/signals.md, "peak"."""
    overflow_decades: float = 4.0
    """Growth of the outputs over the depth that explains an overflow in a forward pass: half of the
    range of float16, and far above any working network's (1 to 2 decades). Ours."""


class ExplodingGradient(Rule):
    """The gradient grows over depth, or from step to step."""

    code = "GS102"
    name = "exploding-gradient"
    title = "The gradient explodes"
    title_ok = "The gradient keeps its size over depth and over the run"
    family = "flow"
    severity = "critical"
    since = "0.1.0"
    needs = (Need("steps.loss", 1, why="no loss was seen"),)
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge growth over depth in the first steps, then growth over the run."""
        run = run_up(recording)
        start = _start(recording)
        learning = gate(recording)
        by_depth = start is not None and _grows_over_depth(options, start, learning)
        by_steps = _grows_over_steps(options, run)
        overflow = run.nonfinite is not None and (
            by_steps
            or by_depth
            or (start is not None and start.forward_growth > options.overflow_decades)
        )
        if not (by_depth or by_steps or overflow):
            if start is None and math.isnan(run.norm_growth):
                return Undecided(
                    "neither the gradient's norm nor modules were recorded on two steps"
                )
            return _passed(options, start, run)
        if overflow:
            kind = "learning-rate" if by_steps and not by_depth else "initialization"
            return Findings((_finding(recording, options, run, start, learning, kind),))
        if not learning.harmed:
            if learning.state == "learning":
                return Passed(None, f"the gradient grew, but it trains: {learning.reason}")
            return Undecided(f"growth is a fault only if it does harm: {learning.reason}")
        kind = "initialization" if by_depth else "learning-rate"
        return Findings((_finding(recording, options, run, start, learning, kind),))


def _start(recording: Recording) -> DepthProfile | None:
    # the first step alone: before the second one a learning rate has had its say. It may be
    # non-finite itself, in a forward pass that overflows; its finite part is what is looked at then
    window = windows.sampled_steps(recording, "activations")[:1]
    profiles = [depth_profile(recording, window, root) for root in trained_roots(recording)]
    profiles = [profile for profile in profiles if profile.layers]
    return max(profiles, key=lambda p: len(p.layers), default=None)


def _grows_over_depth(options: Options, start: DepthProfile, learning: Learning) -> bool:
    if start.growth > options.depth_decades or start.forward_growth > options.forward_decades:
        return True
    return start.growth > options.suspicious_decades and learning.first_excess > options.first_loss


def _grows_over_steps(options: Options, run: RunUp) -> bool:
    if run.nonfinite is not None:
        # a run that blows up within a few steps: the loss alone tells of the growth
        return run.norm_growth > options.norm or run.loss_growth > options.norm
    return run.norm_growth > options.norm and run.loss_growth > options.loss


def _passed(options: Options, start: DepthProfile | None, run: RunUp) -> Passed:
    sides = [_over_run(options, run)]
    if start is not None:
        for what, grown, limit in (
            (
                "gradient comes to at most {} its size at the output",
                start.growth,
                options.depth_decades,
            ),
            (
                "outputs come to at most {} their first size",
                start.forward_growth,
                options.forward_decades,
            ),
        ):
            size = what.format(factor(10**grown))
            said = f"at the start, over the depth, the {size}, the limit is {factor(10**limit)}"
            sides.append(Held(10 ** (limit - grown), said) if math.isfinite(grown) else UNKNOWN)
    near = nearest(sides)
    return passed(near, "; ".join(x.said for x in sides if x != near and x.said))


def _over_run(options: Options, run: RunUp) -> Held:
    """Growth of the norm is a fault only where the loss grows with it: one of them must not."""
    norm, loss = (g if g > 0 else math.nan for g in (run.norm_growth, run.loss_growth))
    if math.isnan(norm):
        return UNKNOWN
    grown = f"over the run the gradient's norm comes to {factor(norm)} its first size"
    by_norm = Held(options.norm / norm, f"{grown}, the limit is {factor(options.norm)}")
    if norm <= options.norm:
        return by_norm
    if math.isnan(loss):
        return Held(math.nan, f"{grown}, but nothing says that the loss grows with it")
    limit = f"the limit is {factor(options.loss)}"
    return Held(options.loss / loss, f"{grown}, but the loss only to {factor(loss)}, {limit}")


def _finding(
    recording: Recording,
    options: Options,
    run: RunUp,
    start: DepthProfile | None,
    learning: Learning,
    kind: str,
) -> Finding:
    states = parameter_states(recording)
    if kind == "initialization" and start is not None:
        module, also = _first_grower(start)
    else:
        module, also = _owner(states, run.parameter), ()
    if _recurrent(recording, module):
        kind = "through-time"
    severity: Severity = "critical"
    confidence: Confidence = "strong"
    if run.nonfinite is None:
        severity, confidence = judged("critical", "strong", learning)
    weights = tuple(s.name for s in states if s.module == module and s.matrix)
    parameters = (run.parameter,) if kind == "learning-rate" and run.parameter else weights
    return Finding(
        code=ExplodingGradient.code,
        name=ExplodingGradient.name,
        severity=severity,
        confidence=confidence,
        summary=_summary(kind, module, run, start),
        modules=(module,) if module or not parameters else ("",),
        parameters=parameters,
        also=also,
        location=location_of(recording, module),
        first_step=0 if kind == "initialization" else _first_step(options, run),
        last_step=windows.last_step(recording) if run.nonfinite is None else run.nonfinite,
        evidence=_evidence(options, run, start, learning),
        why=_why(run, learning),
        causes=_causes(kind, states, module, run),
        kind=kind,
    )


def _first_grower(start: DepthProfile) -> tuple[str, tuple[str, ...]]:
    """The first weight layer that makes its input or its gradient larger, and the later ones."""
    weights = [layer for layer in start.layers if layer.kind == "weight"]
    growers = [layer.module for layer in weights if layer.gain > 1]
    # the first layer has no gradient at its input: it counts as the ones behind it do
    if weights and math.isnan(weights[0].gain) and weights[0].module not in growers:
        growers.insert(0, weights[0].module)
    growers = growers or [layer.module for layer in weights]
    return (growers[0], tuple(growers[1:])) if growers else ("", ())


def _first_step(options: Options, run: RunUp) -> int:
    if run.early_norm > 0:
        for step, norm in zip(run.steps, run.norm, strict=True):
            if norm > options.norm * run.early_norm:
                return step
    return run.peak_step


def _owner(states: tuple[ParameterState, ...], parameter: str) -> str:
    return next((state.module for state in states if state.name == parameter), "")


def _recurrent(recording: Recording, module: str) -> bool:
    rows = recording.modules
    rows = rows[rows["name"] == module]
    return bool(len(rows)) and (
        rows["torch_type"].iloc[0] in RECURRENT or rows["type"].iloc[0] in RECURRENT
    )


def _summary(kind: str, module: str, run: RunUp, start: DepthProfile | None) -> str:
    end = "" if run.nonfinite is None else f", until it is no longer finite at step {run.nonfinite}"
    if kind == "initialization" and start is not None:
        where = f"explodes over the depth from {code(module)} on: at the initial weights"
        if start.forward_growth > max(start.growth, 0):
            grown = f"the layers' outputs grow {factor(10**start.forward_growth)}"
            return f"The signal {where} {grown}{end}."
        grown = f"its norm at the layers' outputs grows {factor(10**start.growth)} toward the input"
        return f"The gradient {where} {grown}{end}."
    at = f", most in {code(module)}" if module else ""
    through = " through time" if kind == "through-time" else ""
    if run.norm_growth > 1:
        return (
            f"The gradient explodes{through} as training goes on{at}: its norm grows "
            f"{factor(run.norm_growth)}{end}."
        )
    return f"Training explodes{through}: the loss grows {factor(run.loss_growth)}{end}."


def _why(run: RunUp, learning: Learning) -> str:
    if run.nonfinite is not None:
        return (
            f"From step {run.nonfinite} on there are NaN or Inf values. The loss was "
            f"{number(run.loss_end)} just before, {number(run.loss_start)} at the start."
        )
    return why_harmful(learning)


def _causes(
    kind: str, states: tuple[ParameterState, ...], module: str, run: RunUp
) -> tuple[str, ...]:
    ratio = max((s.ratio for s in states if s.ratio > 0), default=math.nan)
    moved = f" (the median step moves a parameter by up to {number(ratio)} of its size)"
    moved = moved if ratio > 0 else ""
    rate = f"A learning rate too high for this loss{moved}."
    weights = (
        f"Initial weights too large from {code(module)} on: each layer multiplies what it gets."
    )
    time = "The same recurrent weight is applied at each time step, and its factor is above 1."
    order = {
        "initialization": (weights, f"Less likely: {rate[0].lower()}{rate[1:]}"),
        "through-time": (time, rate),
        "learning-rate": (rate, "Less likely: inputs or targets of a large scale."),
    }
    return order[kind]


def _evidence(
    options: Options, run: RunUp, start: DepthProfile | None, learning: Learning
) -> tuple[Evidence, ...]:
    rows = []
    if start is not None:
        rows += [
            Evidence("gradient's growth toward the input at the start, at the layers' outputs",
                     start.growth, "decades", options.depth_decades),
            Evidence("outputs' growth over the depth at the start", start.forward_growth, "decades",
                     options.forward_decades),
        ]  # fmt: skip
    rows += [
        Evidence("growth of the gradient's total norm", run.norm_growth, "x", options.norm),
        Evidence("total norm at the start", run.early_norm),
        Evidence("largest total norm", run.peak_norm),
        Evidence("growth of the loss", run.loss_growth, "x", options.loss),
        Evidence("first loss over that of a constant answer", learning.first_excess, "",
                 options.first_loss),
    ]  # fmt: skip
    if run.nonfinite is not None:
        rows.append(Evidence(FIRST_NONFINITE, float(run.nonfinite)))
    return (*(row for row in rows if not math.isnan(row.value)), *harm(learning))
