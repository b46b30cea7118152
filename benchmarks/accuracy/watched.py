"""A case under the eyes of a tool: what it says, how long it takes."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import gradscope
from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.training import draft_of, ready
from gradscope.session import judge


def plain(case: Case) -> dict[str, Any]:
    """Nobody watches: the share of the trivial loss removed, and the seconds."""
    training = ready(draft_of(case), case.seed)
    begun = time.perf_counter()
    with _quiet():
        training.run()
    seconds = time.perf_counter() - begun
    last = training.running.losses[-1]
    return {
        "share": training.share(),
        "seconds": seconds,
        "last_loss": last if math.isfinite(last) else None,
    }


def under_gradscope(case: Case) -> dict[str, Any]:
    """Gradscope watches every step and says what it found."""
    training = ready(draft_of(case), case.seed)
    with tempfile.TemporaryDirectory(prefix="gradscope-accuracy-") as folder, _quiet():
        begun = time.perf_counter()
        model = training.models["model"]
        others = [network for name, network in training.models.items() if name != "model"]
        with gradscope.watch(
            model, *others, run_dir=Path(folder) / "run", every=1, activations_every=1
        ) as scope:
            training.run()
        trained = time.perf_counter()
        # the same as scope.diagnose(), which does not tell of rules that failed themselves
        diagnosis = judge(scope.recording)
        ended = time.perf_counter()
        findings = [_as_record(finding) for finding in diagnosis.findings]
    return {
        "findings": findings,
        "errors": list(diagnosis.errors),
        "off": scope.off,
        "at_fault": list(training.draft.at_fault),
        "share": training.share(),
        "seconds": trained - begun,
        "judging": ended - trained,
    }


def _as_record(finding: gradscope.Finding) -> dict[str, Any]:
    first = finding.modules[:1] or tuple(p.rpartition(".")[0] for p in finding.parameters[:1])
    return {
        "code": finding.code,
        "kind": finding.kind,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "first": first[0] if first else None,
        "summary": finding.summary,
        "evidence": {
            e.name: e.value if math.isfinite(e.value) else str(e.value) for e in finding.evidence
        },
    }


@contextlib.contextmanager
def _quiet():
    """Without the warnings of broken trainings: they are broken on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
