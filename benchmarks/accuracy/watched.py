"""A case under gradscope's eyes: recorded once, judged as often as rules change."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradscope
from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.training import draft_of, ready
from gradscope.session import judge

MODULES_EVERY = 3
"""Modules are looked at on every third step; gradients, updates and the loss on each."""


def plain(case: Case, folder: Path) -> dict[str, Any]:
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


def recorded(case: Case, folder: Path) -> dict[str, Any]:
    """Gradscope watches; the recording stays in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    training = ready(draft_of(case), case.seed)
    with _quiet():
        begun = time.perf_counter()
        model = training.models["model"]
        others = [network for name, network in training.models.items() if name != "model"]
        with gradscope.watch(
            model, *others, run_dir=folder, every=1, activations_every=MODULES_EVERY
        ) as scope:
            training.run()
        ended = time.perf_counter()
    return {
        "off": scope.off,
        "at_fault": list(training.draft.at_fault),
        "share": training.share(),
        "seconds": ended - begun,
    }


def judged(case: Case, folder: Path) -> dict[str, Any]:
    """What gradscope says of the recording in ``folder``."""
    begun = time.perf_counter()
    with _quiet():
        # the same as scope.diagnose(), which does not tell of rules that failed themselves
        diagnosis = judge(gradscope.load_run(folder))
    ended = time.perf_counter()
    return {
        "findings": [_as_record(finding) for finding in diagnosis.findings],
        "errors": list(diagnosis.errors),
        "seconds": ended - begun,
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
def _quiet() -> Iterator[None]:
    """Without the warnings of broken trainings: they are broken on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
