"""Hands a recording to an experiment tracker by the run object that the user holds.

Taken is whatever has ``log_metrics(metrics, step=…)`` (the modules and clients of MLflow, the
loggers of Lightning) or ``log(metrics, step=…)`` (a run of W&B or trackio). No tracker is imported.
"""

from __future__ import annotations

from typing import Any

from gradscope.errors import UsageError
from gradscope.recording.reader import Recording
from gradscope.recording.scalars import scalars
from gradscope.running.seeds import random_states_kept

_PREFIX = "gradscope/"
_STEP = f"{_PREFIX}step"


def log_to(run: Any, recording: Recording, *, after: int = -1) -> int:
    """Log what was recorded of each step; see ``recording.scalars`` for the names.

    Call it at the end, or now and then with ``after`` to log what is new. W&B takes no step below
    the last one that it was given, so gradscope's metrics get a step of their own there,
    ``gradscope/step``.

    Args:
        run: the tracker's run object, logger or module.
        recording: ``scope.recording``, or ``gradscope.load_run(folder)``.
        after: only steps above this one.

    Returns:
        The last step that was logged, for the next call's ``after``.

    Raises:
        UsageError: ``run`` has neither ``log_metrics`` nor ``log``.
    """
    own_step = callable(getattr(run, "define_metric", None))
    log = next((f for n in ("log_metrics", "log") if callable(f := getattr(run, n, None))), None)
    if log is None:
        raise UsageError(
            f"a {type(run).__name__} has neither log_metrics() nor log()",
            hint="give the run object that the tracker made, such as wandb.init() or mlflow",
        )
    last = after
    with random_states_kept():
        if own_step:
            run.define_metric(_STEP)
            run.define_metric(f"{_PREFIX}*", step_metric=_STEP)
        for found in scalars(recording, after):
            metrics = {f"{_PREFIX}{tag}": value for tag, value in found.values.items()}
            if own_step:
                log({**metrics, _STEP: found.step})
            else:
                log(metrics, step=found.step)
            last = found.step
    return last
