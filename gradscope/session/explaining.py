"""``--explain``: one training step taken apart, as a section of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradscope.anatomy.subject import Names
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.errors import StepError, UsageError
from gradscope.recording.reader import Recording
from gradscope.report import trace_json
from gradscope.running.loading import Workload
from gradscope.session.judging import write
from gradscope.session.tracing import Asked, names_in, trace_workload

FILE = "explained.json"
"""Name of the stored trace in a run folder."""


def explain(
    diagnosis: Diagnosis,
    folder: Path,
    workload: Workload,
    seed: int,
    found: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """The diagnosis with a trace of the step after the last one; the trace is stored in the run.

    The trained model takes one more step, which is not part of the recording.

    Args:
        diagnosis: of the training that has just ended.
        folder: its run folder.
        workload: its model as the training left it.
        seed: of random numbers in the traced step.
        found: the names of the user's file, for those of classes, features and tokens.
    """
    names = names_in(found or {}, Names(), None)
    try:
        anatomy = trace_workload(workload, Asked(), names, seed)
    except StepError as error:
        # a model that takes no single step outside its loop costs the section, not the check
        text = f"the step could not be taken apart: {error.what}"
        return replace(diagnosis, errors=(*diagnosis.errors, text))
    anatomy = replace(anatomy, steps=len(diagnosis.recording.steps))
    stored = {"of": _run_of(diagnosis.recording), **trace_json.document(anatomy)}
    write(folder / FILE, json.dumps(stored, allow_nan=False))
    return replace(diagnosis, explained=anatomy)


def explained(diagnosis: Diagnosis, folder: Path) -> Diagnosis:
    """The diagnosis of a run on disk with the trace that is stored beside it.

    Raises:
        UsageError: none is stored there, or it is of another run.
    """
    try:
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        anatomy = trace_json.read(stored)
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds no explanation of a step",
            hint="record one with gradscope check --explain",
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"the explanation in {folder} cannot be read: {error}") from error
    if stored.get("of") != _run_of(diagnosis.recording):
        raise UsageError(
            f"the explanation in {folder} is of an earlier run",
            hint="record one with gradscope check --explain",
        )
    return replace(diagnosis, explained=anatomy)


def _run_of(recording: Recording) -> str:
    return f"{recording.run.get('started')} {recording.run.get('pid')}"
