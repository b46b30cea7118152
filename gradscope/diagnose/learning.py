"""Is the training sick? The harm gate that stands before every cause.

No gradient statistic answers this well; the loss against what a constant answer would cost does
(docs/why/signals.md). The measure is the *excess*: the mean of the last losses over the trivial
loss, both of the loss operation itself, so that neither a factor around the loss nor a loss scaler
counts.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.diagnose import windows
from gradscope.diagnose.once import once
from gradscope.diagnose.wording import count, number, percent
from gradscope.recording.reader import Recording

Floats = npt.NDArray[np.float64]
State = Literal["early", "learning", "slow", "weak", "stuck", "diverged", "unknown"]
Basis = Literal["baseline", "trend", "none"]

NOTE_STEPS = 20
"""Below this only certainties count: at 10 steps a gate rings on 20 % of healthy runs, at 20 on 9
%."""
WARNING_STEPS = 50
"""From here a warning is fair: the gate then rings on 1 % of healthy runs (docs/why/signals.md)."""
WARM_UP_FACTOR = 1.25
"""Judge after 1.25 x the warm-up: at step 20 of a warm-up of 40 the gate misjudges 21 %, at 50 3
%."""
EARLY_EXCESS = 0.9
"""Sick above this at 20 to 49 steps: recall .97, false alarms .09 (docs/why/signals.md, "Gate")."""
EXCESS = 0.7
"""Sick above this from 50 steps, and only where the loss no longer falls: recall .98, false alarms
.01 on tasks that can be solved. A language model or a noisy regression may end above it and be
excellent, hence the second condition, and STUCK."""
STUCK = 0.95
"""A loss that no longer falls is at the trivial level above this (mean over the second half of the
run, which single batches move little). Between EARLY_EXCESS and this the measured tasks were sick,
but a noisy regression or a hard language may have learned all there is: such a training is *weak*,
which lets a cause be looked for and is no finding by itself. Our choice."""
DIVERGED = 1.4
"""Largest loss over the trivial or first one; above it .88 of trainings with too high a learning
rate and .12 of healthy ones (docs/why/signals.md, "peak"). Asked of the end of a run here, not of
its peak."""
HALF_WAY = 0.5
"""Share of the trivial (or first) loss at or below which what is certainly odd does no harm that
counts: sick is what learns less than half of what its mended twin does (docs/why/signals.md), and
no twin can remove twice as much as more than half."""
FEW = 0.1
"""Share of the trained elements below which what is certainly odd need only not stop the training.
Ours."""
FALL_ERRORS = 3.0
"""Standard errors by which a slope must be negative to be called falling."""
FALL_SHARE = 0.02
"""... and the share of the level by which the loss fell over the second half of the run: with
thousands of steps three standard errors alone would call any drift a fall. Our choice."""
NO_BASELINE = 1e-3
"""A trivial loss below this share of the first loss means that all targets are alike (the real half
of a GAN's batches): then there is nothing to be compared with. Our choice, far below any real task:
two classes of which one is found once in 7,000 samples have a trivial loss of 1e-3 nats."""

FREQUENCY_LOSSES = ("bce", "bce_with_logits", "nll", "cross_entropy")
"""Losses of class frequencies, in nats."""
OTHER_SIGN = 0.1
"""Share of the steps on which the loss and its largest known term differ in sign, above which the
loss is mostly something else (the policy's part beside a critic's): what a constant answer costs in
that one term says nothing of the whole then. Ours."""


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The loss by step, at the call site with most steps.

    Attributes:
        site: ``file:line`` of the backward call, "" if no loss was seen.
        operation: the loss operation in the graph that makes up most of the loss, "" if unknown.
        steps: steps with a loss, ascending.
        loss: the loss as it was passed to backward (without GradScaler's factor) on those steps.
        excess_steps: steps on which the excess is known.
        excess: the loss operation's own value over ``baseline`` on ``excess_steps``.
        baseline: loss of the best constant answer, in units of the loss operation; NaN: unknown.
        baseline_as_loss: the same in units of ``loss``, for drawing; NaN: unknown.
        several: whether each of several optimizers has its own call sites (a GAN): then a falling
            loss does not mean learning.
    """

    site: str
    operation: str
    steps: Floats
    loss: Floats
    excess_steps: Floats
    excess: Floats
    baseline: float
    baseline_as_loss: float
    several: bool


@dataclass(frozen=True, slots=True)
class Learning:
    """The verdict of the gate.

    Attributes:
        state: ``early`` (too few steps, or still in the warm-up), ``learning``, ``slow`` (hardly
            below the trivial level, but falling), ``weak`` (below it, but above ``limit``, and no
            longer falling), ``stuck`` (at the trivial level and not falling), ``diverged``,
            ``unknown``.
        basis: what the verdict rests on.
        steps: steps with a loss.
        excess: mean of the last losses / trivial loss; NaN without a baseline.
        first_excess: the same of the first three losses.
        peak_excess: largest after the first three.
        limit: the limit that ``excess`` was compared with.
        first: mean of the first three losses.
        last: mean of the last losses (5 % of the run, 5 to 50 of them).
        plateau: mean excess over the second half of the run; NaN without a baseline.
        falling: whether the loss falls over the second half of the run.
        constant: whether the loss is the same number on all steps (to 1e-6).
        warm_up: steps of the learning rate's warm-up.
        reason: one sentence: why this state.
    """

    state: State
    basis: Basis
    steps: int
    excess: float
    first_excess: float
    peak_excess: float
    limit: float
    first: float
    last: float
    plateau: float
    falling: bool
    constant: bool
    warm_up: int
    reason: str

    @property
    def harmed(self) -> bool:
        """Whether a cause may be looked for: the question that stands before every rule."""
        return self.state in ("slow", "weak", "stuck", "diverged")

    def at_ease(self, share: float) -> bool:
        """Whether it does well with a fault that is certain.

        Args:
            share: of the trained elements that the fault is about.

        Returns:
            True where half of the loss is removed, or a fault of few elements lets it learn.
        """
        if self.state != "learning":
            return False
        if share < FEW:
            return True
        if self.basis == "baseline":
            return self.excess <= HALF_WAY
        return self.first > 0 and self.last <= HALF_WAY * self.first

    @property
    def so_far(self) -> bool:
        """Whether it is too early for more than a note."""
        return self.steps < WARNING_STEPS


@once
def loss_curve(recording: Recording) -> LossCurve:
    """The loss and its excess over the trivial answer, step by step."""
    steps = recording.steps
    known = steps[steps["site"].notna()]
    site = Counter(known["site"]).most_common(1)[0][0] if len(known) else ""
    own = known[known["site"] == site]
    at, loss = own["step"].to_numpy(float), own["loss"].to_numpy(float)
    operation, terms, baseline = _main_term(recording, site)
    excess_at, excess, as_loss = np.zeros(0), np.zeros(0), math.nan
    if math.isfinite(baseline):
        excess_at = terms["step"].to_numpy(float)
        excess = terms["value"].to_numpy(float) / baseline
        # what the loop divides by for its micro-batches is in `share` and not in the steps' loss
        with np.errstate(divide="ignore", invalid="ignore"):
            passed = own.set_index("step")["loss"].reindex(terms["step"]).to_numpy(float)
            share = passed / terms["value"].to_numpy(float)
        share = share[np.isfinite(share)]
        if len(share) and share.min() > 0:
            middle = float(np.median(share))
            as_loss = baseline * middle
            # one constant factor around the loss: every step's loss can be read, not only the
            # sampled
            if share.max() / share.min() < 1.01:
                excess_at, excess = at, loss / as_loss
    return LossCurve(
        site, operation, at, loss, excess_at, excess, baseline, as_loss, _several(known)
    )


@once
def gate(recording: Recording) -> Learning:
    """Whether the training is sick, and how sure that can be at this step."""
    curve = loss_curve(recording)
    warm_up = windows.warm_up(recording)
    loss = curve.loss[np.isfinite(curve.loss)]
    tail = _tail(len(curve.loss))
    last_values = curve.loss[-tail:] if len(curve.loss) else loss
    facts: dict[str, Any] = {
        "steps": len(curve.loss),
        "first": float(loss[:3].mean()) if len(loss) else math.nan,
        "last": float(last_values.mean()) if len(last_values) else math.nan,
        "constant": len(loss) >= NOTE_STEPS and float(np.ptp(loss)) <= 1e-6 * abs(float(loss[0])),
        "warm_up": warm_up,
        "excess": math.nan,
        "first_excess": math.nan,
        "peak_excess": math.nan,
        "plateau": math.nan,
        "limit": EARLY_EXCESS if len(curve.loss) < WARNING_STEPS else EXCESS,
        "falling": falls(curve.loss),
    }
    excess = curve.excess[np.isfinite(curve.excess)]
    basis: Basis = "trend" if len(loss) else "none"
    if len(excess) >= 3 and not curve.several:
        basis = "baseline"
        facts["first_excess"] = float(excess[:3].mean())
        facts["excess"] = float(excess[-min(tail, len(excess)) :].mean())
        facts["plateau"] = float(excess[len(excess) // 2 :].mean())
        facts["peak_excess"] = float(excess[3:].max(initial=-math.inf))
    state, reason = _state(curve, facts, basis)
    return Learning(state=state, basis=basis, reason=reason, **facts)


def falls(loss: Floats) -> bool:
    """Whether ``loss`` falls over its second half, by a straight line through it.

    The fall must be FALL_ERRORS standard errors of the slope and FALL_SHARE of the level.
    """
    half = loss[len(loss) // 2 :]
    half = half[np.isfinite(half)]
    if len(half) < 8:
        return False
    at = np.arange(len(half)) - (len(half) - 1) / 2
    spread = float((at**2).sum())
    slope = float((at * half).sum()) / spread
    rest = half - half.mean() - slope * at
    error = math.sqrt(float((rest**2).sum()) / (len(half) - 2) / spread)
    fallen = -slope * (len(half) - 1)
    return slope < -FALL_ERRORS * error and fallen > FALL_SHARE * abs(float(half.mean()))


def _state(curve: LossCurve, facts: dict[str, Any], basis: Basis) -> tuple[State, str]:
    steps, warm_up, excess = facts["steps"], facts["warm_up"], facts["excess"]
    last = facts["last"]
    if basis == "none":
        return "unknown", "no loss was seen"
    if not math.isfinite(last):
        return "diverged", "the loss is no longer finite"
    if steps < NOTE_STEPS:
        return "early", f"{count(steps, 'step')} seen, {NOTE_STEPS} are needed"
    if warm_up and steps <= WARM_UP_FACTOR * warm_up:
        return "early", f"the learning rate rose for {count(warm_up, 'step')} of {steps}"
    if curve.several:
        return "unknown", "several optimizers with losses of their own: a lower loss is not better"
    if basis == "trend":
        return _by_trend(facts)
    level = f"the loss is at {_times(excess)} what a constant answer costs"
    if excess > DIVERGED * max(1.0, facts["first_excess"]):
        return "diverged", f"{level}, and began at {_times(facts['first_excess'])} it"
    if excess <= facts["limit"]:
        return "learning", level
    if facts["falling"]:
        state: State = "slow" if excess > EARLY_EXCESS else "learning"
        return state, f"{level}, and still falls"
    if facts["plateau"] > STUCK and excess > EARLY_EXCESS:
        return "stuck", level
    return "weak", f"{level}, and no longer falls"


def _by_trend(facts: dict[str, Any]) -> tuple[State, str]:
    first, last = facts["first"], facts["last"]
    unknown = "what a constant answer would cost is not known for this loss"
    if facts["constant"]:
        return "stuck", f"the loss is {number(first)} on every step"
    if first > 0 and last > 10 * DIVERGED * first:
        return "diverged", f"the loss rose from {number(first)} to {number(last)}"
    if facts["falling"] or (first > 0 and last < EXCESS * first):
        return "learning", f"the loss fell from {number(first)} to {number(last)}"
    # a converged start looks the same: silence is better than a guess
    return "unknown", f"the loss went from {number(first)} to {number(last)}, and {unknown}"


def _main_term(recording: Recording, site: str) -> tuple[str, pd.DataFrame, float]:
    """The loss operation that makes up most of the loss at ``site``, by step, and its baseline."""
    losses = recording.losses
    losses = losses[(losses["site"] == site) & losses["value"].notna() & losses["baseline"].notna()]
    if not len(losses):
        return "", losses, math.nan
    share = losses["share"].abs()
    # value / loss is the part of the loss that this term makes up
    part = (1 / share.where(share > 0)).groupby(losses["operation"]).median().fillna(0)
    operation = str(part.idxmax())
    own = losses[losses["operation"] == operation]
    terms = own.groupby("step", as_index=False)[["value", "baseline", "share"]].mean()
    negative = terms["share"] < 0
    # a loss whose sign is turned on every step is that term all the same
    if negative.mean() > OTHER_SIGN and not negative.all():
        return operation, terms, math.nan
    baseline = float(terms["baseline"].iloc[-1])
    # a badly scaled start (a first loss of 1e8) must not hide the baseline: nats have a scale of 1
    nats = operation in FREQUENCY_LOSSES
    scale = 1.0 if nats else abs(float(terms["value"].iloc[0])) * NO_BASELINE
    return operation, terms, baseline if baseline > NO_BASELINE * scale else math.nan


def _several(known: pd.DataFrame) -> bool:
    sites = [frozenset(group["site"]) for _, group in known.groupby("optimizer")]
    return len(sites) > 1 and len(set(sites)) > 1


def _times(excess: float) -> str:
    return f"{percent(excess)} of" if excess < 2 else f"{number(excess)} times"


def _tail(steps: int) -> int:
    return min(50, max(5, steps // 20))
