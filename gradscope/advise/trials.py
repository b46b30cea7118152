"""Tries fixes: control and changed trainings from the same state, seed by seed, within a budget.

All candidates are trained with the first seed; those that do clearly better than the control, the
best two of each finding first, with the others. A no-op change must give the control's losses bit
for bit, else two trainings cannot be compared and nothing is said.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradscope.advise.arm import Arm, Start, read
from gradscope.advise.fix import Treatment
from gradscope.advise.ranking import Helped, ranked
from gradscope.advise.trial_parts import (
    Limits,
    Option,
    Options,
    as_share,
    same,
    trial_of,
    untried,
    unusable,
)
from gradscope.advise.verdict import (
    Measure,
    Run,
    Yardstick,
    effect,
    fails,
    judge,
    learnt,
    measure_of,
    separated,
)
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Mended, Trial
from gradscope.diagnose.learning import loss_curve
from gradscope.observe.experiment.intervention import Intervention, NoOp
from gradscope.running.child import Mode, Server

Prepare = Callable[[int], Start]
"""Makes a training ready for its first step, from the number of a seed; runs in a child process."""
Tell = Callable[[str, int, int, int], None]
"""Told before each training: name of the fix, seed, trainings done, trainings planned."""

FEWEST_STEPS = 20
"""A trial is not made shorter: at 20 steps 6 of 16 right fixes have not shown yet, at 30 one."""
NEAR = 1.1
"""Factor that one place in the order by evidence is worth: between near-ties the finding decides,
because a change that makes up for a fault can beat the one that mends it by a little."""
FINALISTS = 2
"""Fixes of a finding that get all seeds before any other one does."""
PATIENCE = 4.0
"""A changed training may take so many times the control's time, and no less than LEAST seconds."""
LEAST = 10.0
_ORDER = ("not-tried", "no-effect", "hurt", "failed")
"""What follows the fixes that helped."""
_PROOF = frozenset({"GS104", "GS201", "GS403", "GS501", "GS503:broadcast", "GS506"})
"""Codes, or codes and kinds, whose certain findings prove a failing control: a parameter that never
moves, a NaN, a gradient that is none, a loss whose lowest value is one answer for all."""


@dataclass
class _Candidate:
    """A variant of a fix of a finding, with its trainings so far."""

    finding: int
    rank: int
    option: Option
    runs: list[Run] = field(default_factory=list)
    untried: str = ""

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        return self.option.treatment.interventions

    @property
    def rescales(self) -> bool:
        return any(change.rescales_loss for change in self.interventions)


class Trials:
    """The trials of one diagnosis.

    Args:
        diagnosis: its findings have fixes already.
        options: see ``Options``; ``advisor.options`` makes them.
        prepare: see ``Prepare``.
        limits: how much is tried.
        tell: see ``Tell``.
        mode: see ``running.child.Mode``.
    """

    def __init__(
        self,
        diagnosis: Diagnosis,
        options: Options,
        prepare: Prepare,
        limits: Limits,
        tell: Tell = lambda name, seed, done, planned: None,
        mode: Mode | None = None,
    ) -> None:
        self._diagnosis, self._options = diagnosis, options
        self._prepare, self._limits, self._tell, self._mode = prepare, limits, tell, mode
        self._deadline = time.monotonic() + limits.budget
        self._controls: list[Run] = []
        self._known: dict[tuple[int, tuple[Intervention, ...]], Run] = {}
        self._steps, self._seconds = limits.steps, LEAST
        self._done = self._planned = 0
        self._trivial = loss_curve(diagnosis.recording).baseline_as_loss
        self._candidates = [
            _Candidate(number, rank, option, untried=option.treatment.untried)
            for number, fixes in enumerate(options)
            for rank, variants in enumerate(fixes)
            for option in variants
        ]

    def run(self) -> Diagnosis:
        """Try all; gives the diagnosis with the trials in its fixes, the best ones first."""
        tried = [c for c in self._candidates if c.interventions]
        mended = None
        if tried:
            self._planned = 2 + len(tried) + (self._limits.seeds - 1) * (1 + FINALISTS)
            failure = ""
            try:
                failure = self._first_seed(tried)
                if not failure:
                    self._other_seeds(tried)
                    mended = self._together()
            except KeyboardInterrupt:
                # what was tried until then is worth telling
                failure = "interrupted"
            for candidate in tried if failure else ():
                if not candidate.runs:
                    candidate.untried = candidate.untried or failure
        return replace(
            self._diagnosis,
            findings=tuple(
                self._with_trials(number, finding)
                for number, finding in enumerate(self._diagnosis.findings)
            ),
            mended=mended,
        )

    # ------------------------------------------------------------------ trainings

    def _server(self, seed: int) -> Server:
        prepare = functools.partial(self._prepare, seed)
        return Server(prepare, seconds=max(1.0, self._left()), mode=self._mode)

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _train(
        self, server: Server, seed: int, name: str, changes: tuple[Intervention, ...]
    ) -> Run | None:
        """A training, None where the budget is used up."""
        key = seed, changes
        if key not in self._known:
            limit = min(self._left(), self._seconds)
            if limit <= 0:
                return None
            self._tell(name, seed, self._done, max(self._planned, self._done + 1))
            self._done += 1
            ended = server.run(Arm(changes, self._steps), seconds=limit)
            if ended.kind == "timeout" and self._left() <= 0:
                return None
            self._known[key] = read(ended)[0]
        return self._known[key]

    def _first_seed(self, tried: Sequence[_Candidate]) -> str:
        """The control, its self-test, then each candidate; why nothing can be tried, or ""."""
        with self._server(0) as server:
            if server.failure is not None:
                return f"the training could not be prepared: {server.failure.reason}"
            begun = time.monotonic()
            self._seconds = max(LEAST, self._limits.budget / 3)
            control = self._train(server, 0, "control", ())
            failure = unusable(control)
            if failure or control is None:
                return failure or "the budget was used up"
            control = self._shortened(control, time.monotonic() - begun, len(tried))
            self._controls.append(control)
            again = self._train(server, 0, "self-test", (NoOp(),))
            if again is None:
                return "the budget was used up"
            if not same(control.losses, again.losses):
                return "two runs of the unchanged training differ, so that nothing can be compared"
            for candidate in sorted(tried, key=lambda c: c.rank):
                self._add(server, 0, candidate)
        return ""

    def _shortened(self, control: Run, seconds: float, candidates: int) -> Run:
        """Fewer steps where the budget asks for it: the control's beginning is a control, too."""
        each = seconds / max(1, len(control.losses))
        wanted = 2 + candidates + (self._limits.seeds - 1) * (1 + FINALISTS)
        affordable = int(max(0.0, self._left()) / (wanted * max(each, 1e-9)))
        steps = max(min(FEWEST_STEPS, self._steps), min(self._steps, affordable))
        self._seconds = max(LEAST, PATIENCE * each * steps)
        cut = steps < self._steps
        self._steps = steps
        if not cut and not control.crashed:
            return control
        longest = len(control.losses) >= steps
        control = replace(
            control,
            losses=control.losses[:steps],
            errors=control.errors[:steps],
            crashed="" if longest else control.crashed,
        )
        self._known[0, ()] = control
        return control

    def _add(self, server: Server, seed: int, candidate: _Candidate) -> None:
        run = self._train(server, seed, candidate.option.fix.name, candidate.interventions)
        if run is None:
            candidate.untried = f"the budget of {self._limits.budget:g} s was used up"
        elif not run.applied and not run.crashed:
            candidate.untried = "the change found no place to act in this training"
        else:
            candidate.untried = ""
            candidate.runs.append(run)

    def _other_seeds(self, tried: Sequence[_Candidate]) -> None:
        begun = time.monotonic()
        chosen = self._finalists(tried)
        for seed in range(1, self._limits.seeds):
            if not chosen or self._left() <= 0:
                return
            with self._server(seed) as server:
                control = self._train(server, seed, "control", ())
                if control is None or (not control.losses and not control.crashed):
                    return
                self._controls.append(control)
                for candidate, first in chosen:
                    spent = time.monotonic() - begun
                    if not first and spent > self._limits.budget / 4:
                        continue
                    if self._passes(candidate):
                        self._add_seed(server, seed, candidate)

    def _add_seed(self, server: Server, seed: int, candidate: _Candidate) -> None:
        run = self._train(server, seed, candidate.option.fix.name, candidate.interventions)
        if run is not None:
            candidate.runs.append(run)

    def _finalists(self, tried: Sequence[_Candidate]) -> list[tuple[_Candidate, bool]]:
        """Candidates worth further seeds, the best two of each finding first."""
        chosen: list[tuple[_Candidate, bool]] = []
        for number in range(len(self._options)):
            own = [c for c in self._best_variants(number) if c in tried and self._passes(c)]
            if own and not self._failing(number):
                continue
            chosen += [(c, place < FINALISTS) for place, c in enumerate(self._ranked(own))]
        return sorted(chosen, key=lambda pair: (not pair[1], self._score(pair[0])))

    def _failing(self, number: int) -> bool:
        yardstick = self._yardstick(number)
        return yardstick.proved or fails(self._controls[0], "loss", yardstick)

    def _passes(self, candidate: _Candidate) -> bool:
        """Whether the seeds so far keep apart."""
        count = min(len(candidate.runs), len(self._controls))
        if not count or len(candidate.runs) < len(self._controls) - 1:
            return False
        controls, treated, measure, yardstick = self._arms(candidate)
        return separated(controls, treated, measure, yardstick)

    # ------------------------------------------------------------------ verdicts

    def _yardstick(self, number: int) -> Yardstick:
        finding = self._diagnosis.findings[number]
        named = {finding.code, f"{finding.code}:{finding.kind}"}
        proved = bool(named & _PROOF) and finding.confidence == "certain"
        return Yardstick(self._steps, self._trivial, proved)

    def _arms(self, candidate: _Candidate) -> tuple[list[Run], list[Run], Measure, Yardstick]:
        """Controls and treated runs of the same seeds, as they can be compared."""
        count = min(len(candidate.runs), len(self._controls))
        controls, treated = self._controls[:count], candidate.runs[:count]
        yardstick = self._yardstick(candidate.finding)
        measure = measure_of(controls, candidate.rescales)
        if candidate.rescales and measure == "loss":
            # another scale, and no wrong answers to count: the share of the first loss is left
            controls, treated = [*map(as_share, controls)], [*map(as_share, treated)]
            yardstick = replace(yardstick, trivial=math.nan)
        return controls, treated, measure, yardstick

    def _score(self, candidate: _Candidate) -> float:
        """Share of the start that is left by the worst seed, with the evidence's order in it."""
        controls, treated, measure, yardstick = self._arms(candidate)
        left = [effect(t, c, measure, yardstick) for c, t in zip(controls, treated, strict=True)]
        return max(left, default=math.inf) * NEAR**candidate.rank

    def _ranked(self, helped: Sequence[_Candidate]) -> list[_Candidate]:
        """Candidates of one finding that did better than the control, the best in front."""
        return [helped[at] for at in ranked([self._helped(candidate) for candidate in helped])]

    def _helped(self, candidate: _Candidate) -> Helped:
        controls, treated, measure, yardstick = self._arms(candidate)
        pairs = zip(treated, controls, strict=True)
        return Helped(
            direct=candidate.option.direct,
            score=self._score(candidate),
            # NaN stays NaN, which is never enough
            learnt=float(np.min([learnt(run, c, measure, yardstick) for run, c in pairs])),
            fails=any(fails(run, measure, yardstick) for run in treated),
        )

    def _best_variants(self, number: int) -> list[_Candidate]:
        """The best variant of each fix of a finding, by what was tried."""
        best: dict[int, _Candidate] = {}
        for candidate in self._candidates:
            if candidate.finding != number:
                continue
            other = best.get(candidate.rank)
            if other is None or self._order(candidate) < self._order(other):
                best[candidate.rank] = candidate
        return list(best.values())

    def _order(self, candidate: _Candidate) -> tuple[int, float]:
        return (-len(candidate.runs), self._score(candidate) if candidate.runs else math.inf)

    def _with_trials(self, number: int, finding: Finding) -> Finding:
        trials = [(c, self._trial(c)) for c in self._best_variants(number)]
        helped = self._ranked([c for c, trial in trials if trial.status == "helped"])
        others = [(c, trial) for c, trial in trials if trial.status != "helped"]
        others.sort(key=lambda pair: (_ORDER.index(pair[1].status), pair[0].rank))
        ordered = [*self._first_said(helped), *others]
        return finding.with_fixes(tuple(replace(c.option.fix, trial=trial) for c, trial in ordered))

    def _first_said(self, helped: list[_Candidate]) -> list[tuple[_Candidate, Trial]]:
        """The fixes that helped with their trials; where the first is not the best, why."""
        found = [(candidate, self._trial(candidate)) for candidate in helped]
        best = min(helped, key=self._score, default=None)
        if best is None or best is helped[0]:
            return found
        first, trial = found[0]
        reason = (
            f"{trial.reason}; it goes before {best.option.fix.name}, which ends lower, because it "
            "removes the cause itself: with it the training no longer fails"
        )
        return [(first, replace(trial, reason=reason)), *found[1:]]

    def _trial(self, candidate: _Candidate) -> Trial:
        if candidate.untried or not candidate.runs:
            return Trial("not-tried", candidate.untried or "the budget was used up")
        controls, treated, measure, yardstick = self._arms(candidate)
        alone = len(controls) < min(self._limits.seeds, 2) and self._failing(candidate.finding)
        if alone and self._passes(candidate):
            return Trial("not-tried", "better with the only seed that there was time for")
        status, reason = judge(controls, treated, measure, yardstick)
        return trial_of(status, reason, controls, treated, measure, yardstick)

    def _together(self) -> Mended | None:
        """The best fix of each finding in one training."""
        chosen: list[tuple[str, _Candidate]] = []
        for number, finding in enumerate(self._diagnosis.findings):
            helped = [c for c in self._best_variants(number) if self._trial(c).status == "helped"]
            if helped:
                chosen.append((finding.code, self._ranked(helped)[0]))
        if not chosen:
            return None
        changes = tuple(dict.fromkeys(i for _, c in chosen for i in c.interventions))
        whole = _Candidate(chosen[0][1].finding, 0, Option(
            chosen[0][1].option.fix, Treatment(changes)))  # fmt: skip
        names = tuple((code, c.option.fix.title) for code, c in chosen)
        if any(c.interventions == changes for _, c in chosen):
            equal = next(c for _, c in chosen if c.interventions == changes)
            return Mended(names, self._trial(equal))
        for seed in range(min(self._limits.seeds, len(self._controls))):
            if self._left() <= 0:
                break
            with self._server(seed) as server:
                run = self._train(server, seed, "all together", changes)
            if run is None:
                break
            whole.runs.append(run)
        return Mended(names, self._trial(whole)) if whole.runs else None


__all__ = ["Limits", "Option", "Options", "Tell", "Trials", "untried"]
