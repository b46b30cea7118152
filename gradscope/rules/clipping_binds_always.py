"""GS502: clipping cuts the gradient so far on every step that the parameters hardly move."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.diagnose import windows
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.diagnose.held import Held, farthest, passed
from gradscope.diagnose.learning import Learning, gate
from gradscope.diagnose.locate import site_location
from gradscope.diagnose.rule import Findings, Need, Outcome, Passed, Rule, Undecided
from gradscope.diagnose.turns import MAKES_GRADIENTS, Event, Turn, turns
from gradscope.diagnose.verdict import harm, judged, why_harmful
from gradscope.diagnose.wording import factor, number, percent
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of GS502."""

    least_steps: int = 20
    """Clipped steps before "always" is said: the number from which the gate gives notes."""
    share: float = 0.95
    """Share of the steps of the second half that the clip cuts. Ours: always, but for a batch or
    two."""
    factor: float = 5.0
    """Median of norm over limit. docs/why/loop.md, "Clipping": limits down to a third of the usual
    norm cost little; behind the gate every training above 5 was sick for the clip."""
    update_ratio: float = 2e-3
    """Median update over weight below which steps are too short: .86 of the trainings with too low
    a learning rate and .26 of healthy ones are below 2.2e-3, hence only behind the gate and the
    factor (docs/why/loop.md, "Clipping")."""


_SCALE_FREE = frozenset({
    "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop",
    "Adafactor", "SparseAdam", "Muon",
})  # fmt: skip
"""Optimizers that divide the gradient by its own size: a constant factor changes nothing as long as
it stays above their ``eps``."""


@dataclass(frozen=True, slots=True)
class _Clipping:
    """The clips of one optimizer over the second half of its steps."""

    optimizer: int
    site: str
    norms: tuple[float, ...]
    limits: tuple[float, ...]
    steps: tuple[int, int]

    @property
    def share(self) -> float:
        cut = [n > limit for n, limit in zip(self.norms, self.limits, strict=True)]
        return sum(cut) / len(cut)

    @property
    def excess(self) -> float:
        """Median of norm over limit; infinite where the limit is 0."""
        ratios = [
            n / limit if limit > 0 else math.inf
            for n, limit in zip(self.norms, self.limits, strict=True)
        ]
        return float(np.median(ratios))

    @property
    def advised(self) -> float:
        """A limit that nine of ten of these steps stay below, in two digits."""
        return float(f"{np.quantile(self.norms, 0.9):.1e}")


class ClippingBindsAlways(Rule):
    """Clipping by norm that decides the size of every step."""

    code = "GS502"
    name = "clipping-binds-always"
    title = "Clipping cuts every gradient far down"
    title_ok = "Clipping leaves ordinary gradients as they are"
    family = "loop"
    severity = "warning"
    since = "0.1.0"
    needs = (
        Need("steps.loss", 3, why="no loss was seen"),
        Need(
            "steps.clip_limit", 1, "not-applicable",
            "clip_grad_norm_ was not called (clipping by value is not judged)",
        ),
        Need("updates", 1, why="no update was looked at"),
    )  # fmt: skip
    options = Options()

    def check(self, recording: Recording, options: Options) -> Outcome:
        """Judge the optimizer with most clipped steps."""
        clipping = _clipping(recording)
        if clipping is None or len(clipping.norms) < options.least_steps // 2:
            seen = 2 * len(clipping.norms) if clipping else 0
            return Undecided(
                f"{seen} steps were clipped between backward and step, {options.least_steps} needed"
            )
        said = (
            f"the clip cut {percent(clipping.share)} of the steps, norm over limit has a median of "
            f"{number(clipping.excess)}"
        )
        if clipping.share < options.share or clipping.excess < options.factor:
            return _passed(options, clipping, said)
        if not _matters(recording, clipping):
            return Passed(None, f"{said}, but the optimizer divides such a factor away")
        learning = gate(recording)
        if learning.state == "learning":
            return Passed(None, f"{said}, but it trains: {learning.reason}")
        if not learning.harmed:
            return Undecided(f"clipping is a fault only if it does harm: {learning.reason}")
        ratio = _update_ratio(recording)
        if math.isnan(ratio):
            return Undecided("the size of the updates was not recorded")
        if ratio >= options.update_ratio:
            return Passed(
                ratio / options.update_ratio,
                f"{said}, but the parameters move by {number(ratio)} of their size a step",
            )
        return Findings((_finding(clipping, ratio, learning, options),))


def _passed(options: Options, clipping: _Clipping, said: str) -> Passed:
    # always, and far down: a finding needs both. What never happens is at no distance from a limit
    often = Held(
        options.share / clipping.share if clipping.share > 0 else math.nan,
        f"the clip cut {percent(clipping.share)} of the steps, the limit is "
        f"{percent(options.share)}",
    )
    far = Held(
        options.factor / clipping.excess if clipping.excess > 0 else math.nan,
        f"{said}, the limit is {number(options.factor)}",
    )
    decides = farthest((often, far))
    return passed(decides) if decides.said else Passed(None, said)


def _clipping(recording: Recording) -> _Clipping | None:
    made = [(turn, event) for turn in turns(recording) if (event := _clip(turn)) is not None]
    if not made:
        return None
    optimizer = Counter(turn.optimizer for turn, _ in made).most_common(1)[0][0]
    own = [(turn, event) for turn, event in made if turn.optimizer == optimizer]
    own = own[len(own) // 2 :]
    return _Clipping(
        optimizer,
        own[-1][1].site,
        tuple(event.value or 0.0 for _, event in own),
        tuple(event.limit or 0.0 for _, event in own),
        (own[0][0].step, own[-1][0].step),
    )


def _clip(turn: Turn) -> Event | None:
    """The turn's last clip that came behind a backward and found a finite norm."""
    fresh = next((i for i, e in enumerate(turn.events) if e.kind in MAKES_GRADIENTS), None)
    behind: Sequence[Event] = () if fresh is None else turn.events[fresh + 1 :]
    clips = [
        e
        for e in behind
        if e.kind == "clip" and turn.optimizer in (e.detail.get("optimizers") or ())
    ]
    return clips[-1] if clips and math.isfinite(clips[-1].value or math.nan) else None


def _matters(recording: Recording, clipping: _Clipping) -> bool:
    """Whether the optimizer's steps shrink with the gradient."""
    known = recording.run.get("optimizers") or []
    facts = known[clipping.optimizer] if 0 <= clipping.optimizer < len(known) else {}
    if facts.get("type") not in _SCALE_FREE:
        return True
    eps = float((facts.get("defaults") or {}).get("eps") or 0.0)
    elements = max(1, int(facts.get("parameters") or 1))
    return float(np.median(clipping.limits)) / math.sqrt(elements) < eps


def _update_ratio(recording: Recording) -> float:
    """Median over the weights of their median update ratio in the last window."""
    updates, parameters = recording.updates, recording.parameters
    shapes = {int(i): row or () for i, row in parameters["shape"].items()}
    matrices = [identity for identity, shape in shapes.items() if len(shape) >= 2]
    steps = windows.last_window(recording, "updates")
    rows = updates[updates["step"].isin(steps) & updates["parameter_id"].isin(matrices)]
    return float(rows.groupby("parameter_id")["ratio"].median().median())


def _finding(clipping: _Clipping, ratio: float, learning: Learning, options: Options) -> Finding:
    severity, confidence = judged("warning", "strong", learning)
    limit = float(np.median(clipping.limits))
    norm = float(np.median(clipping.norms))
    at = f" at {clipping.site}" if site_location(clipping.site) else ""
    return Finding(
        code=ClippingBindsAlways.code,
        name=ClippingBindsAlways.name,
        severity=severity,
        confidence=confidence,
        summary=f"Clipping{at} cuts {percent(clipping.share)} of the gradients, from a norm of "
        f"{number(norm)} to {number(limit)}: {factor(clipping.excess)} down.",
        location=site_location(clipping.site),
        first_step=clipping.steps[0],
        last_step=clipping.steps[1],
        evidence=(
            Evidence("share of steps that are cut", clipping.share, "", options.share),
            Evidence("median norm over limit", clipping.excess, "", options.factor),
            Evidence("limit", limit),
            Evidence("advised limit", clipping.advised),
            Evidence("median update ratio", ratio, "", options.update_ratio),
            *harm(learning),
        ),
        why=f"{why_harmful(learning)} Every step has the length that the limit allows: the weights "
        f"move by {number(ratio)} of their size.",
        causes=(
            f"The limit was made for gradients of another size. Nine of ten steps stay below "
            f"{number(clipping.advised)}: with it the clip would cut the rare large ones.",
            "The same speed could come from a higher learning rate, as long as the limit stays.",
        ),
        kind="norm",
    )
