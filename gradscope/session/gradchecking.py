"""``gradcheck``: is every backward pass right, and if not, which module's, and in what way."""

from __future__ import annotations

import html
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gradscope import config
from gradscope.errors import BackwardError, StepError, UsageError
from gradscope.finite_difference.localise import Checked, check_model
from gradscope.finite_difference.options import DIRECTIONS, SECONDS, Options, Progress
from gradscope.finite_difference.outcome import Verdict, overall
from gradscope.finite_difference.preparation import CannotRunError, Change
from gradscope.observe.reading.nested import mapped, once
from gradscope.recording.folder import default_folder
from gradscope.report.formats import render
from gradscope.running.failures import in_one_line, place, user_code, user_traceback
from gradscope.running.importing import surroundings
from gradscope.running.loading import Workload, load
from gradscope.running.losses import output_alone
from gradscope.running.seeds import random_states_kept
from gradscope.running.target import parse
from gradscope.session.gradcheck_records import in_memory, on_disk, records_of, run_facts
from gradscope.session.judging import judge, save
from gradscope.session.judging_settings import judging_facts, patterns
from gradscope.session.variables import variable_of

if TYPE_CHECKING:
    import pandas as pd

    from gradscope.diagnose.diagnosis import Diagnosis
    from gradscope.diagnose.finding import Finding

CODE = "GS601"


class GradcheckResult:
    """What ``gradcheck`` found out.

    Attributes:
        verdict: ``right``, ``wrong``, ``by-design`` or ``inconclusive``.
        reason: why it is inconclusive, or "".
        findings: one for each module at fault, none for those that only suffer from it; what is
            by design is a note.
        diagnosis: the same with what else a report shows.
        notes: sentences about how it was done.
        seconds: how long it took.
    """

    def __init__(self, checked: Checked, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.notes = (*checked.notes, *checked.limits)
        self.seconds = checked.seconds
        verdicts = [result.verdict for result in checked.modules.values()]
        self.verdict: Verdict = "inconclusive" if checked.reason else overall(verdicts)
        self.reason = checked.reason or (_doubt(checked) if self.verdict == "inconclusive" else "")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One for each module at fault; see the class."""
        return self.diagnosis.findings

    def to_frame(self) -> pd.DataFrame:
        """One row for each module and tensor.

        Columns: ``module``, ``tensor``, ``verdict``, ``kind``, ``analytic``, ``numeric``,
        ``error_bar``, ``ratio`` (analytic over numeric), ``reason`` and ``detail``.
        """
        recording = self.diagnosis.recording
        frame = recording.gradchecks.copy()
        frame["module"] = [recording.module_names.get(int(m), "") for m in frame["module"]]
        frame["ratio"] = frame["analytic"] / frame["numeric"].where(frame["numeric"] != 0)
        frame["reason"] = [(d or {}).get("reason", "") for d in frame["detail"]]
        order = ["module", "tensor", "verdict", "kind", "analytic", "numeric", "error_bar"]
        return frame[[*order, "ratio", "reason", "detail"]]

    def report(self, path: str | Path) -> Path:
        """Write it; the suffix decides the format: .html, .json, .md, .xml, .sarif, .txt.

        Returns:
            The path.
        """
        return save(self.diagnosis, path)

    def raise_if_wrong(self) -> None:
        """Raise where a backward pass is wrong.

        Raises:
            BackwardError: with every module at fault; also an ``AssertionError``.
        """
        if self.verdict == "wrong":
            wrong = [f for f in self.findings if f.severity != "note"] or list(self.findings)
            said = "\n".join(f"{f.summary} {f.why}".strip() for f in wrong)
            raise BackwardError(said or "a backward pass is wrong")

    def __str__(self) -> str:
        return render(self.diagnosis, "full").rstrip()

    def __repr__(self) -> str:
        names = ", ".join(repr(f.modules[0]) for f in self.findings)
        about = names or self.reason or f"{len(self.to_frame())} derivatives compared"
        return f"<GradcheckResult {self.verdict}: {about}>"

    def _repr_html_(self) -> str:
        page = html.escape(render(self.diagnosis, "html"))
        # a frame of its own: the page's styles and scripts stay out of the notebook
        return f'<iframe srcdoc="{page}" style="width:100%;height:40em;border:0"></iframe>'


def gradcheck(
    target: str | Path | nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any], Any] | None = None,
    seed: int = 0,
    second_order: bool = False,
    directions: int = DIRECTIONS,
    seconds: float = SECONDS,
    precision: bool = True,
    input: Sequence[int] | str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    ignore: Iterable[str] = (),
    fail_on: str | None = None,
    progress: Progress | None = None,
) -> GradcheckResult:
    """Compare every backward pass in a model with finite differences.

    Args:
        target: an ``nn.Module``, which stays as it is (all is done on a copy), or ``model.py`` or
            ``model.py:object``, imported afresh.
        args: for a module: what it is called with. Of floating tensors those are checked that
            require grad; all, where none does.
        kwargs: for a module: further arguments by name.
        loss: for a module: from its output to a scalar, to be checked, too.
        seed: of the directions; for a file also of torch, numpy and random.
        second_order: also check the derivative of each backward pass.
        directions: independent directions for each tensor.
        seconds: time after which less is done for what is left.
        precision: also compare the backward pass in single precision with double precision.
        input: for a file: shape of made-up inputs, batch axis first.
        device: for a file: where to run it, the CPU by default.
        batch_size: for a file: samples in a batch, where gradscope makes the batches.
        run_dir: folder of the recording; for a module nothing is written by default, for a file a
            new folder under ``.gradscope``.
        overwrite: replace a recording that is in ``run_dir``.
        ignore: findings not wanted: ``CODE`` or ``CODE:layer-pattern``.
        fail_on: least severity for exit code 1: critical, warning (default), note or never.
        progress: told how many modules of how many are done, and the next one's name.

    Raises:
        UsageError: an argument that cannot be used.
        LoadError: the file cannot be imported, or a part is missing or does not fit.
        StepError: the model itself fails.
    """
    settings = config.settings().with_flags(
        seed=seed, input=input, device=device, batch_size=batch_size, ignore=patterns(ignore),
        fail_on=fail_on,
    )  # fmt: skip
    options = Options(seed, _whole(directions), seconds, second_order, precision, False, progress)
    folder = None if run_dir is None else Path(run_dir)
    if not isinstance(target, nn.Module):
        if args or kwargs or loss is not None:
            raise UsageError(
                "args, kwargs and loss belong to a module",
                hint="put batches and a loss into the file, or give the module itself",
            )
        return gradcheck_file(str(target), settings, options, run_dir=folder, overwrite=overwrite)
    label = variable_of(target, sys._getframe(1)) or "model"
    given: Any = args
    if not isinstance(given, tuple):
        # one tensor, or a list of them, is what was meant
        given = tuple(given) if isinstance(given, list) else (given,)

    def drive(model: nn.Module, change: Change) -> Any:
        positional, named = mapped((given, dict(kwargs or {})), once(change))
        output = model(*positional, **named)
        return output if loss is None else loss(output)

    things = [] if loss is None else [loss]
    checked = _checked(target, drive, options, things, with_loss=loss is not None)
    facts = _facts(target, label, settings, checked, type(target).__name__, {}, "")
    return _result(target, label, checked, facts, folder, overwrite=overwrite)


def gradcheck_file(
    target: str,
    settings: config.Settings,
    options: Options,
    *,
    run_dir: Path | None = None,
    overwrite: bool = False,
    loaded: Callable[[Workload], None] | None = None,
) -> GradcheckResult:
    """``gradcheck`` of a file.

    Args:
        target: ``model.py[:object]``.
        settings: what is in force.
        options: how much to do.
        run_dir: see ``gradcheck``.
        overwrite: see ``gradcheck``.
        loaded: told what was found in the file.
    """
    file = parse(target).file
    with surroundings(file), random_states_kept():
        workload = load(
            target, input_shape=settings.input, device=settings.device,
            batch_size=settings.batch_size, seed=settings.seed, trains=False,
        )  # fmt: skip
        if loaded is not None:
            loaded(workload)
        with user_code(StepError, "the first batch"):
            batch = next(workload.batches())

        def drive(model: nn.Module, change: Change) -> Any:
            return workload.loss(model, mapped(batch, once(change)))

        with_loss = workload.loss is not output_alone
        checked = _checked(workload.model, drive, options, [workload.loss], with_loss=with_loss)
        facts = _facts(
            workload.model, workload.label, settings, checked, workload.target, workload.took,
            _command_line(target, settings, options), workload.assumptions,
        )  # fmt: skip
        folder = run_dir or default_folder(workload.target)
        return _result(workload.model, workload.label, checked, facts, folder, overwrite=overwrite)


def assert_backward(module: nn.Module, *args: Any, **options: Any) -> None:
    """Assert that every backward pass in a module is right, for use in tests.

    Args:
        module: as in ``gradcheck``.
        *args: what it is called with.
        **options: those of ``gradcheck``: ``kwargs``, ``loss``, ``seed``, ``second_order`` ….

    Raises:
        BackwardError: a backward pass is wrong, or it cannot be told; an ``AssertionError``.
    """
    result = gradcheck(module, args, **options)
    result.raise_if_wrong()
    if result.verdict == "inconclusive":
        raise BackwardError(f"it cannot be told whether the backward is right: {result.reason}")


def _checked(
    model: nn.Module, drive: Any, options: Options, things: list[Any], *, with_loss: bool
) -> Checked:
    try:
        return check_model(model, drive, options, things=things, with_loss=with_loss)
    except CannotRunError as error:
        cause = error.cause
        raise StepError(
            f"the forward pass failed: {in_one_line(cause)}",
            where=place(cause),
            hint="the model has to run by itself before its backward can be checked",
            user_traceback=user_traceback(cause),
        ) from cause


def _facts(
    model: nn.Module,
    label: str,
    settings: config.Settings,
    checked: Checked,
    target: str,
    took: Mapping[str, str],
    reproduce: str,
    assumptions: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        **run_facts(model, label),
        "command": "gradcheck",
        "target": target,
        "seed": settings.seed,
        "assumptions": [*assumptions, *checked.notes],
        "limits": list(checked.limits),
        "settings": {
            **judging_facts(settings),
            "select": [CODE], "took": dict(took), "fail_on": settings.fail_on or "warning",
            "reproduce": reproduce, "seconds": checked.seconds,
        },
    }  # fmt: skip


def _result(
    model: nn.Module,
    label: str,
    checked: Checked,
    facts: dict[str, Any],
    folder: Path | None,
    *,
    overwrite: bool,
) -> GradcheckResult:
    records = records_of(model, label, checked)
    if folder is None:
        recording = in_memory(records, facts)
    else:
        recording = on_disk(records, facts, folder, overwrite=overwrite)
    return GradcheckResult(checked, judge(recording))


def _doubt(checked: Checked) -> str:
    """The first reason, with the module it is about."""
    for name, result in checked.modules.items():
        for outcome in result.outcomes:
            if outcome.verdict == "inconclusive":
                return f"`{name}`: {outcome.reason}" if name else outcome.reason
    return ""


def _whole(directions: int) -> int:
    if isinstance(directions, bool) or not isinstance(directions, int) or directions < 1:
        raise UsageError(
            f"directions cannot be {directions!r}", hint="it takes a whole number from 1"
        )
    return directions


def _command_line(target: str, settings: config.Settings, options: Options) -> str:
    default, words = config.Settings(), ["gradscope", "gradcheck", target]
    for flag in ("input", "seed", "device", "batch_size", "ignore", "fail_on"):
        value = getattr(settings, flag)
        if value == getattr(default, flag):
            continue
        name = f"--{flag.replace('_', '-')}"
        each = [",".join(map(str, value))] if flag == "input" else value
        for one in each if isinstance(each, list | tuple) else [each]:
            words += [name, str(one)]
    if options.second_order:
        words.append("--second-order")
    if options.directions != DIRECTIONS:
        words += ["--directions", str(options.directions)]
    if options.seconds != SECONDS:
        words += ["--seconds", f"{options.seconds:g}"]
    return shlex.join(words)
