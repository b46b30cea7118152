"""What the callbacks share: finding the framework, and the end of a training."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import SEVERITIES
from gradscope.errors import UsageError
from gradscope.report.run_facts import run_facts
from gradscope.report.summary import verdict
from gradscope.running.failures import in_one_line
from gradscope.running.seeds import random_states_kept
from gradscope.session.judging import judge, save
from gradscope.session.scope import Scope


def loaded(names: Sequence[str], extra: str) -> list[ModuleType]:
    """Those of the modules that the user has imported; if none, the first that is installed.

    Args:
        names: full names of modules, each an equivalent of the others.
        extra: the extra of gradscope-torch that installs one.

    Raises:
        UsageError: none is installed.
    """
    found = [module for name in names if (module := sys.modules.get(name)) is not None]
    for name in () if found else names:
        try:
            return [import_module(name)]
        except ModuleNotFoundError as error:
            if error.name != name and not name.startswith(f"{error.name}."):
                raise  # it is installed, and lacks a part of its own
    if not found:
        raise UsageError(
            f"{names[0]} is not installed",
            hint=f'python -m pip install "gradscope-torch[{extra}]"',
        )
    return found


def end(
    scope: Scope,
    *,
    report: str | Path | None,
    log: logging.Logger,
    error: BaseException | None = None,
    quiet: bool = False,
) -> Diagnosis | None:
    """Stop watching, judge, tell the framework's log, write the report.

    Nothing here stops the user's program: a failure becomes a line in the log.

    Args:
        scope: the training.
        report: where the report goes; None for ``report.html`` in the run folder.
        log: the framework's own.
        error: what ended the training, or None.
        quiet: only stop watching, as on all ranks but the first.

    Returns:
        The diagnosis; None where nothing was judged.
    """
    was_on = scope.folder is not None
    scope.__exit__(type(error) if error else None, error, None)
    if quiet or not was_on:
        return None
    try:
        with random_states_kept():
            diagnosis = judge(scope.recording)
            path = save(diagnosis, report or Path(str(scope.folder)) / "report.html")
    except Exception as failure:
        log.warning("gradscope could not judge this training: %s", in_one_line(failure))
        return None
    for finding in diagnosis.findings:
        log.warning("gradscope: %s", finding)
    if not diagnosis.findings:
        log.info("gradscope: %s", verdict(diagnosis, run_facts(diagnosis.recording)))
    log.info("gradscope: report in %s", path)
    return diagnosis


def counts(diagnosis: Diagnosis) -> dict[str, float]:
    """Number of findings by severity, as metrics such as ``gradscope/critical``."""
    seen = Counter(finding.severity for finding in diagnosis.findings)
    return {f"gradscope/{severity}": float(seen[severity]) for severity in SEVERITIES}


def log_counts(logger: Any, diagnosis: Diagnosis, step: int, log: logging.Logger) -> None:
    """Give the counts to an experiment logger with ``log_metrics(metrics, step)``."""
    try:
        logger.log_metrics(counts(diagnosis), step=step)
    except Exception as failure:
        # a logger of the user's, which may be closed or refuse the step
        log.warning("gradscope's findings were not logged: %s", in_one_line(failure))
