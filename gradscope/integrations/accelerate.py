"""A tracker for Hugging Face Accelerate; ``gradscope.watch`` around the loop does as well.

::

    from gradscope.integrations.accelerate import GradscopeTracker

    accelerator = Accelerator(log_with=[GradscopeTracker(model)])
    accelerator.init_trackers("run")
    ...
    accelerator.end_training()
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.integrations.framework import end, loaded
from gradscope.session.scope import Scope
from gradscope.session.watching import watch

(_tracking,) = loaded(["accelerate.tracking"], "accelerate")
(_state,) = loaded(["accelerate.state"], "accelerate")


class GradscopeTracker(_tracking.GeneralTracker):  # type: ignore[name-defined]
    """Watches from ``init_trackers`` to ``end_training`` and judges then.

    What the loop logs goes to the other trackers; this one records the training itself.

    Attributes:
        diagnosis: what was found; None before the end, and on all ranks but the first.
    """

    name = "gradscope"
    requires_logging_directory = False
    main_process_only = False  # each rank records its own part

    def __init__(self, *models: nn.Module, report: str | Path | None = None, **watching: Any):
        """Make one.

        Args:
            models: what is trained, before or after ``accelerator.prepare``.
            report: where the report goes, in the format of its suffix; ``report.html`` in the run
                folder by default.
            watching: arguments of ``gradscope.watch``: ``run_dir``, ``every``, ``budget`` …
        """
        super().__init__()
        self.diagnosis: Diagnosis | None = None
        self._scope: Scope | None = None
        self._models = models
        self._report = report
        self._watching = watching

    @property
    def tracker(self) -> Scope | None:
        """The watched training; None before ``init_trackers``."""
        return self._scope

    def start(self) -> None:
        """Begin to watch."""
        self._scope = watch(*self._models, **self._watching)
        self._models = ()

    def finish(self) -> None:
        """Judge, log the findings and write the report."""
        if self._scope is None or not self._scope.attached:
            return
        log = logging.getLogger("accelerate")
        quiet = not _state.PartialState().is_main_process
        self.diagnosis = end(self._scope, report=self._report, log=log, quiet=quiet)
