"""What each tool says about a case, in the words of one answer."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradscope
from benchmarks.nonfinite.plan import Case
from benchmarks.nonfinite.training import HEALTHY, Training, quiet
from gradscope.diagnose.rule import Findings
from gradscope.observe.autograd.operations import node_operation
from gradscope.rules.non_finite import NonFinite


@dataclass(frozen=True)
class Answer:
    """What was said.

    Attributes:
        alarmed: something was reported at all.
        operation, module: the ones named; "" for none, ``module`` None where modules are not told.
        samples: the ones named.
        line: of the operation.
        seconds: of the flagged step.
        note: a reason, or what failed.
    """

    alarmed: bool
    operation: str = ""
    module: str | None = None
    samples: tuple[int, ...] = ()
    line: int | None = None
    seconds: float = 0.0
    note: str = ""


def unwatched(case: Case, *, sick: bool) -> tuple[bool, float]:
    """Whether plain torch ends the flagged step in finite numbers, and that step's seconds."""
    training = Training(case, sick=sick)
    clock = _Clock()
    training.run(clock.around)
    return training.finite, clock.seconds


def gradscope_says(case: Case, *, sick: bool, nonfinite: str = "auto") -> Answer:
    """Under ``gradscope.watch`` with its defaults, as rule GS201 reads the recording."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = Training(case, sick=sick)
        scope = gradscope.watch(*training.models, run_dir=Path(folder) / "run", nonfinite=nonfinite)
        with scope:
            training.run(clock.around)
        recording = scope.recording
        alarms = recording.alarms
        outcome = NonFinite().check(recording, None)
    alarmed = bool(alarms["kind"].astype(str).str.endswith("-nonfinite").any())
    finding = outcome.findings[0] if isinstance(outcome, Findings) else None
    origin = finding.origin if finding is not None else None
    if origin is None:
        reason = finding.causes[0] if finding is not None and finding.causes else ""
        return Answer(finding is not None or alarmed, seconds=clock.seconds, note=reason)
    module = origin.module
    if len(training.models) > 1 and module:
        module = module.partition(".")[2]
    return Answer(
        True, origin.operation, module, origin.samples,
        origin.location.line if origin.location else None, clock.seconds, origin.reason,
    )  # fmt: skip


def anomaly_says(case: Case, *, sick: bool) -> Answer:
    """Under ``torch.autograd.detect_anomaly``: the node that it names."""
    training = Training(case, sick=sick)
    clock = _Clock()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly():
                training.run(clock.around)
        except RuntimeError as error:
            named = re.search(r"Function '(\w+)' returned nan", str(error))
            if named is None:
                return Answer(False, note=str(error))
            line = _line_in(caught)
            return Answer(True, node_operation(named[1]), None, (), line, clock.seconds)
    return Answer(False, seconds=clock.seconds)


def _line_in(caught: list[Any]) -> int | None:
    text = "\n".join(str(warning.message) for warning in caught)
    lines = re.findall(r'nonfinite/operations\.py", line (\d+)', text)
    return int(lines[-1]) if lines else None


def hook_says(case: Case, *, sick: bool) -> Answer:
    """A forward hook on each module that looks for a NaN or Inf in its output."""
    training = Training(case, sick=sick)
    found: list[str] = []
    for model in training.models:
        for name, module in model.named_modules():
            module.register_forward_hook(_looker(name, found))
    clock = _Clock()
    training.run(clock.around)
    if not found:
        return Answer(False, seconds=clock.seconds)
    return Answer(True, "", found[0], (), None, clock.seconds)


def _looker(name: str, found: list[str]) -> Any:
    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not bool(torch.isfinite(output).all()):
            found.append(name)

    return look


class _Clock:
    """Times the flagged step."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        began = time.perf_counter()
        with quiet(step):
            yield
        if step == HEALTHY:
            self.seconds = time.perf_counter() - began


TOOLS = {"gradscope": gradscope_says, "detect_anomaly": anomaly_says, "isfinite hook": hook_says}


def safely(tool: str, case: Case, *, sick: bool) -> Answer:
    """An answer, also where the tool fails itself."""
    try:
        return TOOLS[tool](case, sick=sick)
    except Exception:
        return Answer(False, note=traceback.format_exc())
