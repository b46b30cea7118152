"""A callback for Lightning 2, as ``lightning.pytorch`` or as ``pytorch_lightning``.

::

    from gradscope.integrations.lightning import GradscopeCallback

    trainer = Trainer(callbacks=[GradscopeCallback()])
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.integrations.framework import end, loaded, log_counts
from gradscope.recording.folder import default_folder
from gradscope.session.scope import Scope
from gradscope.session.watching import watch

_FRAMEWORKS = ("lightning.pytorch", "pytorch_lightning")


class GradscopeCallback:
    """Watches ``trainer.fit`` and judges it at its end.

    The names are those of the LightningModule, the steps those of its optimizers. Lightning steps
    with a closure, accumulates and clips in it: the gradient that is recorded is the one that the
    optimizer used, with the norm before clipping beside it.

    An object is a ``Callback`` of the framework that is imported (of both, if both are).

    Attributes:
        scope: the watched training; None before it begins.
        diagnosis: what was found; None before the end, and on all ranks but the first.
    """

    scope: Scope | None
    diagnosis: Diagnosis | None

    def __new__(cls, *args: Any, **kwargs: Any) -> GradscopeCallback:
        """An object of a subclass that is a framework's ``Callback`` as well."""
        return object.__new__(_as_callback(cls))

    def __init__(self, report: str | Path | None = None, **watching: Any) -> None:
        """Make one.

        Args:
            report: where the report goes, in the format of its suffix; ``report.html`` in the run
                folder by default.
            watching: arguments of ``gradscope.watch``: ``run_dir``, ``every``, ``budget`` …

        Raises:
            UsageError: no Lightning is installed.
        """
        self.scope = self.diagnosis = None
        self._report = report
        self._watching = watching

    def __reduce__(self) -> tuple[Any, ...]:
        # the subclass has no name by which pickle could find it again
        return _again, (self._made_of, self._report, self._watching)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch: model and optimizers are where they will be trained."""
        folder = self._watching.get("run_dir")
        if trainer.world_size > 1 and folder is None:
            # before the first step, so that all ranks write into one folder
            folder = trainer.strategy.broadcast(str(default_folder(type(pl_module).__name__)))
        self.scope = watch(
            pl_module,
            **{"first_step": trainer.global_step, **self._watching, "run_dir": folder},
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge, log the findings and write the report."""
        self._end(trainer, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same, of what was recorded until then."""
        self._end(trainer, exception)

    def _end(self, trainer: Any, error: BaseException | None) -> None:
        if self.scope is None or not self.scope.attached:
            return
        log = logging.getLogger(type(trainer).__module__.removesuffix(".trainer.trainer"))
        quiet = not trainer.is_global_zero
        self.diagnosis = end(self.scope, report=self._report, log=log, error=error, quiet=quiet)
        if self.diagnosis is not None:
            for logger in trainer.loggers:
                log_counts(logger, self.diagnosis, trainer.global_step, log)

    @property
    def _made_of(self) -> type[GradscopeCallback]:
        return type(self).__mro__[1]


_MADE: dict[tuple[type, ...], type[GradscopeCallback]] = {}
"""Subclasses that were made, by their bases: one class of objects stays one class."""


def _as_callback(cls: type[GradscopeCallback]) -> type[GradscopeCallback]:
    frameworks = loaded(_FRAMEWORKS, "lightning")
    bases = (cls, *(framework.Callback for framework in frameworks))
    if bases not in _MADE:
        body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        _MADE[bases] = type(cls.__name__, bases, {**body, "__doc__": cls.__doc__})
    return _MADE[bases]


def _again(
    cls: type[GradscopeCallback], report: str | Path | None, watching: dict[str, Any]
) -> GradscopeCallback:
    return cls(report, **watching)
