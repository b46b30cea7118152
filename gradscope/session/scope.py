"""A training under watch."""

from __future__ import annotations

import atexit
import html
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.observe.experiment.kept_batches import KeptBatches
from gradscope.observe.observer import Observer
from gradscope.recording.writer import Writer
from gradscope.running.failures import in_one_line
from gradscope.running.seeds import random_states_kept

if TYPE_CHECKING:
    from gradscope.diagnose.diagnosis import Diagnosis
    from gradscope.diagnose.finding import Finding, Origin
    from gradscope.recording.reader import Recording

# What reads and judges a recording is imported by the methods that ask for it: pandas alone takes
# some 75 MB, and a training that is only watched does without.

_LIVING: list[Scope] = []


class Scope:
    """A training under watch. Made by ``watch``; all of it works while attached and afterwards.

    Attributes:
        folder: the run folder, or None when nothing is recorded.
        off: why nothing is recorded, or "".
    """

    def __init__(
        self,
        observer: Observer | None,
        writer: Writer | None,
        models: Sequence[nn.Module] = (),
        asked: dict[str, Any] | None = None,
        off: str = "",
    ) -> None:
        self._observer, self._writer = observer, writer
        self._models = tuple(weakref.ref(model) for model in models)
        self._asked = asked or {}
        self._final: Recording | None = None
        self._tried: tuple[int, Diagnosis] | None = None
        """Steps recorded when fixes were tried, and what came of it."""
        self._kept: KeptBatches | None = None
        self.folder = writer.folder if writer else None
        self.off = off

    @classmethod
    def switched_off(cls, reason: str) -> Scope:
        """A scope that records nothing, and says why."""
        print(reason, file=sys.stderr)
        return cls(None, None, off=reason)

    def attach(self, settings: dict[str, Any]) -> None:
        """Begin to watch; ``settings`` are what ``judging.judge`` reads back."""
        if self._observer is None or self._writer is None:
            return
        self._observer.fact("settings", settings)
        try:
            self._observer.attach()
        except Exception as error:
            # a training must not fail to start because gradscope does
            self.off = f"gradscope could not attach and records nothing: {in_one_line(error)}"
            warnings.warn(self.off, stacklevel=3)
            self._writer.set("limits", [self.off])
            self._writer.close()
        else:
            _LIVING.append(self)
            model = self._model()
            if model is not None:
                self._kept = KeptBatches(model)

    @property
    def attached(self) -> bool:
        """Whether it is watching."""
        return self._observer is not None and self._observer.attached

    @property
    def steps(self) -> int:
        """Optimizer steps seen."""
        return self._observer.steps if self._observer is not None else 0

    def detach(self) -> None:
        """Stop watching, finish the recording and leave no trace in the models; idempotent."""
        if self in _LIVING:
            _LIVING.remove(self)
        if self._observer is None or self._writer is None:
            return
        try:
            if self._kept is not None:
                self._kept.remove()
            self._observer.detach()
            self._writer.close()
        except Exception as error:
            warnings.warn(f"gradscope could not detach cleanly: {in_one_line(error)}", stacklevel=2)

    def __enter__(self) -> Scope:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._observer is not None and self._observer.attached:
            if isinstance(error, KeyboardInterrupt):
                self._observer.fact("interrupted", f"interrupted at step {self.steps}")
            elif isinstance(error, Exception):
                what = f"the training failed at step {self.steps}: {in_one_line(error)}"
                self._observer.fact("failed", what)
        self.detach()

    @property
    def recording(self) -> Recording:
        """What was recorded, up to now while attached."""
        from gradscope.recording.load import load_run
        from gradscope.recording.reader import Recording

        if self.folder is None:
            limits = [{"key": "limits", "value": [self.off]}]
            return Recording({}, {"run": limits})
        if self.attached:
            return load_run(self.folder)
        if self._final is None:
            self._final = load_run(self.folder)
        return self._final

    def replay(self, step_fn: Callable[[], Any]) -> Origin | None:
        """Find the first operation of a step that makes a NaN or an Inf, also in the loss code.

        Call it with the weights and the batch at which the value came: in ``on_alarm`` (the
        weights have not been updated yet), or after loading a checkpoint from before.

        Args:
            step_fn: runs one step: forward, loss, backward, and if it likes ``optimizer.step()``;
                what it returns (the loss) is looked at first. Weights, gradients, buffers, plain
                attributes of the modules, states of the optimizers seen and all random states are
                afterwards as before; those of a scheduler or a loader are not.

        Returns:
            The origin, which also stands in the report then; None where everything stayed finite,
            or nothing is watched.

        Raises:
            Exception: what ``step_fn`` raises.
        """
        from gradscope.rules.non_finite import origin_of

        if self._observer is None:
            return None
        record = self._observer.replay(step_fn)
        if record is None:
            return None
        return origin_of(record, self.recording.module_names)

    def diagnose(self) -> list[Finding]:
        """The findings, worst first, each with its fixes; [] when nothing was found."""
        return list(self._diagnosis().findings)

    def report(self, path: str | Path, *, assets: str = "inline") -> Path:
        """Write the report; the suffix decides its format: .html, .json, .md, .sarif, .xml, .txt.

        Args:
            path: the file.
            assets: "linked" for a page whose scripts and styles lie in files beside it.

        Returns:
            The path.
        """
        from gradscope.session.judging import save

        with random_states_kept():
            return save(self._diagnosis(), path, assets=assets)

    @property
    def overhead(self) -> float | None:
        """Gradscope's own time as a share of the time of all steps; None before the first step."""
        from gradscope.report.run_facts import run_facts

        return run_facts(self.recording).fraction

    def try_fixes(
        self,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        batches: Any = None,
        *,
        steps: int = 60,
        seeds: int = 3,
        budget: float = 120.0,
    ) -> list[Finding]:
        """Train copies of the first watched model with each proposed fix, in child processes.

        Each seed begins with weights drawn with the recorded means and spreads. The model, its
        optimizer and the random states stay untouched. What came of it is added to the recording:
        later reports tell of it, also those of ``gradscope report``.

        Args:
            loss: ``loss(model, batch)``, which gives a scalar; without it nothing is tried.
            batches: an iterable of batches, or a function that gives one; None for some that were
                kept while watching, as ``(input, …, target)``.
            steps: of each training.
            seeds: of each fix.
            budget: seconds for all of them.

        Returns:
            The findings, each with its fixes, those that helped first.
        """
        from gradscope.advise.trials import Limits
        from gradscope.session.trying_objects import try_watched

        diagnosis = self._judged(trials=False)
        model = self._model()
        if model is None or not diagnosis.findings:
            return list(diagnosis.findings)
        optimizers = self._observer.optimizers if self._observer is not None else []
        kept = self._kept.batches if self._kept is not None else []
        limits = Limits(steps, seeds, budget)
        with random_states_kept():
            tried = try_watched(
                diagnosis, model, next(iter(optimizers), None), loss, batches, kept, limits
            )
        tried = self._keep(tried)
        self._tried = len(diagnosis.recording.steps), tried
        return list(tried.findings)

    def _keep(self, tried: Diagnosis) -> Diagnosis:
        """Add the trials to the recording, as its writer or as one who comes after it."""
        from gradscope.advise.kept_trials import records_of
        from gradscope.session.trying import kept

        if self.attached and self._writer is not None:
            self._writer.records("trials", records_of(tried, tried.recording))
            self._writer.commit()
            return tried
        self._final = None
        return tried if self.folder is None else kept(tried, self.folder)

    def _model(self) -> nn.Module | None:
        return next((m for m in (ref() for ref in self._models) if m is not None), None)

    def _judged(self, *, trials: bool = True) -> Diagnosis:
        from gradscope.session.judging import judge

        # asked for in the middle of a training, it must not move the training's random states
        with random_states_kept():
            return judge(self.recording, trials=trials)

    def _diagnosis(self) -> Diagnosis:
        found = self._judged()
        if self._tried is not None and self._tried[0] == len(found.recording.steps):
            return self._tried[1]
        return found

    def _repr_html_(self) -> str:
        if self.off:
            return f"<p>{html.escape(self.off)}</p>"
        from gradscope.report.formats import render

        with random_states_kept():
            page = html.escape(render(self._diagnosis(), "html"))
        # a frame of its own: the page's styles and scripts stay out of the notebook
        return f'<iframe srcdoc="{page}" style="width:100%;height:40em;border:0"></iframe>'

    def __repr__(self) -> str:
        if self.off:
            return f"<Scope: {self.off}>"
        state = "watching" if self.attached else "finished"
        return f"<Scope: {state}, {self.steps} steps, in {self.folder}>"


@atexit.register
def _finish() -> None:
    while _LIVING:
        _LIVING[-1].detach()


def end_scope_in(folder: Path) -> None:
    """End the scope of this process that writes to ``folder``: a notebook's cell is run again."""
    there = [s for s in _LIVING if s.folder and s.folder.absolute() == folder.absolute()]
    for scope in there:
        scope.detach()


def living_scope(models: Sequence[nn.Module], asked: dict[str, Any]) -> Scope | None:
    """The scope that watches exactly these models already.

    Raises:
        UsageError: a scope watches some of them, or all of them in another way.
    """
    for scope in _LIVING:
        watched = {id(model) for model in (ref() for ref in scope._models) if model is not None}
        if not watched.intersection(map(id, models)):
            continue
        different = [name for name, value in asked.items() if scope._asked.get(name) != value]
        if watched == set(map(id, models)) and not different:
            return scope
        how = f"with another {', '.join(different)}" if different else "together with others"
        raise UsageError(
            f"the model is watched already, {how}",
            where=str(scope.folder),
            hint="call detach() on the first scope, or use `with gradscope.watch(model):`",
        )
    return None
