"""The listed cases under gradscope: right, wrong or silent."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import gradscope
from benchmarks.nonfinite.listed import LISTED, Listed
from gradscope.diagnose.finding import Finding, Origin
from gradscope.diagnose.layer_growth import first_grown
from gradscope.diagnose.rule import Findings
from gradscope.rules.non_finite import NonFinite


@dataclass(frozen=True)
class Said:
    """What was said about a listed case; ``right`` by the case's own measure."""

    case: Listed
    right: bool
    summary: str


def all_named() -> list[Said]:
    """Every listed case."""
    return [named(case) for case in LISTED]


def named(case: Listed) -> Said:
    """One case under ``gradscope.watch`` with its defaults."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models, step = case.build()
        with gradscope.watch(*models, run_dir=Path(folder) / "run") as scope:
            for number in range(case.steps):
                step(number)
        recording = scope.recording
        outcome = NonFinite().check(recording, None)
        finding = outcome.findings[0] if isinstance(outcome, Findings) else None
        kinds = recording.alarms["kind"].astype(str)
        if not case.expected:
            silent = finding is None and not kinds.str.endswith("-nonfinite").any()
            return Said(case, silent, "silent" if silent else _summary(finding))
        right = finding is not None and _right(case, finding.origin)
        text = _summary(finding)
        if case.grows is not None and finding is not None:
            grown = first_grown(recording, finding.first_step)
            right = right and grown is not None and (grown.began or 0) <= case.grows
            if grown is not None:
                text += (
                    f" `{grown.parameter}` grew first, from step {grown.began} by a factor of "
                    f"{grown.factor:.2g} per step."
                )
        return Said(case, right, text)


def _right(case: Listed, origin: Origin | None) -> bool:
    return (
        origin is not None
        and origin.operation in case.expected
        and case.phase in ("", origin.phase)
        and case.module in (None, origin.module)
        and case.samples in (None, origin.samples)
    )


def _summary(finding: Finding | None) -> str:
    return "nothing" if finding is None else finding.summary
