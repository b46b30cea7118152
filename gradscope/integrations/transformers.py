"""A callback for the Trainer of Hugging Face transformers.

::

    from gradscope.integrations.transformers import GradscopeCallback

    trainer = Trainer(model, args, train_dataset=data, callbacks=[GradscopeCallback()])
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.integrations.framework import counts, end, loaded
from gradscope.session.scope import Scope
from gradscope.session.watching import watch

(_transformers,) = loaded(["transformers"], "transformers")


class GradscopeCallback(_transformers.TrainerCallback):  # type: ignore[name-defined]
    """Watches ``Trainer.train`` and judges it at its end.

    The Trainer's own hook before the step comes after clipping. The norm before it is taken from
    the clip's own call, and the gradient from the optimizer's: what it used.

    Attributes:
        scope: the watched training; None before it begins.
        diagnosis: what was found; None before the end, and on all ranks but the first.
    """

    def __init__(self, report: str | Path | None = None, **watching: Any) -> None:
        """Make one.

        Args:
            report: where the report goes, in the format of its suffix; ``report.html`` in the run
                folder by default.
            watching: arguments of ``gradscope.watch``: ``run_dir``, ``every``, ``budget`` …
        """
        self.scope: Scope | None = None
        self.diagnosis: Diagnosis | None = None
        self._report = report
        self._watching = watching

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin to watch; the steps are numbered as the Trainer's, also after a checkpoint."""
        self.scope = watch(given["model"], **{"first_step": state.global_step, **self._watching})

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Judge, log the findings (also into ``state.log_history``) and write the report."""
        if self.scope is None or not self.scope.attached:
            return
        log = logging.getLogger("transformers.trainer")
        quiet = not state.is_world_process_zero
        self.diagnosis = end(self.scope, report=self._report, log=log, quiet=quiet)
        if self.diagnosis is not None:
            # what a Trainer logs stands there too, and is saved with its state
            state.log_history.append({**counts(self.diagnosis), "step": state.global_step})
