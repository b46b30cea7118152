"""One case: its diagnosis, its trials, and what they are worth on fresh seeds."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

from benchmarks.accuracy.cases import Case
from benchmarks.fixes.autotrainer import order
from benchmarks.fixes.hosting import FRESH, diagnosed, start
from benchmarks.fixes.placebos import PLACEBOS
from gradscope.advise.advisor import options
from gradscope.advise.arm import Arm, read
from gradscope.advise.trials import Limits, Option, Options, Trials
from gradscope.advise.verdict import Run, Yardstick, fails, judge, separated
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix
from gradscope.diagnose.learning import loss_curve
from gradscope.observe.experiment.intervention import Intervention
from gradscope.running.child import Server

SECONDS = 60.0
"""Limit of one training here: none of the benchmark's takes a tenth of it."""
ALARMING = ("critical", "warning")


class Host:
    """Runs trainings of a case in child processes, one server for each seed."""

    def __init__(self, case: Case, steps: int) -> None:
        self._case, self._steps = case, steps
        self._servers: dict[int, Server] = {}

    def train(self, seed: int, changes: tuple[Intervention, ...]) -> Run:
        """A training of a trial's length."""
        return read(self._server(seed).run(Arm(changes, self._steps), seconds=SECONDS))[0]

    def quality(self, seed: int, changes: tuple[Intervention, ...]) -> float:
        """Share of the trivial loss that the whole training removes; 0 where it cannot be run."""
        arm = Arm(changes, 10**9, quality=True)
        found = read(self._server(seed).run(arm, seconds=SECONDS))[1]
        return found if found is not None and math.isfinite(found) else 0.0

    def _server(self, seed: int) -> Server:
        if seed not in self._servers:
            prepare = functools.partial(start, self._case, seed)
            self._servers[seed] = Server(prepare, seconds=SECONDS)
        return self._servers[seed]

    def close(self) -> None:
        """End all servers."""
        for server in self._servers.values():
            server.close()


def evaluate(case: Case, limits: Limits, *, thorough: bool, placebos: bool) -> dict[str, Any]:
    """Everything about one case, as JSON holds it.

    Args:
        case: a training.
        limits: of its trials.
        thorough: whether fresh seeds and AutoTrainer's order are run, too.
        placebos: whether placebos are.
    """
    begun = time.monotonic()
    diagnosis, own_share = diagnosed(case)
    observed = time.monotonic() - begun
    found = options(diagnosis)
    begun = time.monotonic()
    tried = Trials(diagnosis, found, functools.partial(start, case), limits).run()
    seconds = time.monotonic() - begun
    host = Host(case, limits.steps)
    try:
        row: dict[str, Any] = {
            "seconds": seconds, "observed": observed, "share": own_share,
            "findings": [_as_record(f) for f in tried.findings],
        }  # fmt: skip
        best = top(tried)
        if best is not None:
            changes = interventions(found, best[0], best[1])
            row["top"] = {"fix": best[1].name, "status": best[1].trial.status,
                          "code": tried.findings[best[0]].code}  # fmt: skip
            row["top"]["share"] = host.quality(0, changes) if changes else own_share
        if thorough:
            row["fresh"] = _fresh(host, tried, found)
            row["autotrainer"] = _autotrainer(host, diagnosis, limits, own_share)
        if placebos:
            row["placebos"] = _placebos(host, diagnosis, limits)
        return row
    finally:
        host.close()


def top(diagnosis: Diagnosis) -> tuple[int, Fix] | None:
    """The fix that the report tells to do first, with its finding's number."""
    with_fixes = [
        (number, f.fixes[0])
        for number, f in enumerate(diagnosis.findings)
        if f.fixes and f.severity in ALARMING
    ]
    helped = [pair for pair in with_fixes if pair[1].trial.status == "helped"]
    return next(iter((*helped, *with_fixes)), None)


def interventions(found: Options, number: int, fix: Fix) -> tuple[Intervention, ...]:
    """The changes of a fix that a finding shows."""
    every: list[Option] = [option for variants in found[number] for option in variants]
    return next((o.treatment.interventions for o in every if o.fix.title == fix.title), ())


def _as_record(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "kind": finding.kind,
        "severity": finding.severity,
        "fixes": [
            {"name": fix.name, "status": fix.trial.status, "reason": fix.trial.reason,
             "control": [_json(v) for v in fix.trial.loss_control],
             "treated": [_json(v) for v in fix.trial.loss_treated]}
            for fix in finding.fixes
        ],
    }  # fmt: skip


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _fresh(host: Host, tried: Diagnosis, found: Options) -> list[bool]:
    """For each help whether two seeds that the trial has not seen are kept apart, too."""
    trivial = loss_curve(tried.recording).baseline_as_loss
    held = []
    done: set[tuple[Intervention, ...]] = set()
    for number, finding in enumerate(tried.findings):
        for fix in finding.fixes:
            changes = interventions(found, number, fix)
            if fix.trial.status != "helped" or changes in done:
                continue
            done.add(changes)
            controls = [host.train(FRESH + k, ()) for k in range(2)]
            treated = [host.train(FRESH + k, changes) for k in range(2)]
            yardstick = Yardstick(fix.trial.steps, trivial)
            held.append(separated(controls, treated, fix.trial.measure, yardstick))
    return held


def _placebos(host: Host, diagnosis: Diagnosis, limits: Limits) -> dict[str, str]:
    """The verdict on each placebo, by its name, as if a certain finding stood behind it."""
    trivial = loss_curve(diagnosis.recording).baseline_as_loss
    controls = [host.train(k, ()) for k in range(limits.seeds)]
    verdicts = {}
    for name, changes, offset in PLACEBOS:
        treated = [host.train(offset + k, changes) for k in range(limits.seeds)]
        yardstick = Yardstick(limits.steps, trivial, proved=bool(diagnosis.findings))
        verdicts[name] = judge(controls, treated, "loss", yardstick)[0]
    return verdicts


def _autotrainer(
    host: Host, diagnosis: Diagnosis, limits: Limits, own_share: float
) -> dict[str, Any]:
    """The first entry of its list with which the training no longer fails, and its quality."""
    yardstick = Yardstick(limits.steps, loss_curve(diagnosis.recording).baseline_as_loss)
    control = host.train(0, ())
    tried = 0
    for name, changes in order(diagnosis):
        tried += 1
        run = host.train(0, changes)
        better = separated([control], [run], "loss", yardstick)
        if better and not fails(run, "loss", yardstick):
            return {"fix": name, "tried": tried, "share": host.quality(0, changes)}
    return {"fix": None, "tried": tried, "share": own_share}
