"""``check``: train a model for a few steps and judge it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from gradscope import config
from gradscope.advise.trials import Tell
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.errors import StepError, UsageError
from gradscope.observe.observer import Observer
from gradscope.recording.folder import default_folder
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.running.importing import surroundings
from gradscope.running.loading import Workload, from_objects, load
from gradscope.running.restoring import left_as_it_was
from gradscope.running.seeds import random_states_kept, seed_all
from gradscope.running.target import parse
from gradscope.running.training import Progress, train
from gradscope.session import explaining
from gradscope.session.glancing import Glance
from gradscope.session.judging import judge, refuse_wrong_patterns
from gradscope.session.judging_settings import judging_facts, patterns
from gradscope.session.trying import kept, silent, try_file
from gradscope.session.trying_objects import Before, try_workload
from gradscope.session.variables import variable_of

TIME_LIMIT = 60.0
"""Seconds after which ``check`` begins no further step."""


@dataclass(frozen=True)
class Checked:
    """What ``check`` found out, and the failure of the user's code that ended it, if any."""

    diagnosis: Diagnosis
    failure: StepError | None
    folder: Path


def check(
    target: str | Path | nn.Module,
    *,
    batches: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    steps: int | None = None,
    input: Sequence[int] | str | None = None,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str | None = None,
    baseline: str | Path | None = None,
    try_fixes: bool | None = None,
    trial_steps: int | None = None,
    trial_seeds: int | None = None,
    trial_budget: float | str | None = None,
    explain: bool = False,
) -> Diagnosis:
    """Train a model for a few steps and say what is wrong with its gradients.

    Args:
        target: ``model.py`` or ``model.py:object``, imported afresh, or an ``nn.Module``, which is
            afterwards as it was before: weights, gradients, random states.
        batches: for a module: a loader, a data set, a list of batches, a function that gives one of
            these, or one batch; None to make inputs up.
        loss: for a module: ``loss(model, batch)`` or ``criterion(output, target)``; None to infer.
        optimizer: for a module: an optimizer, or a function of the model; None for AdamW.
        steps: training steps, 200 by default; after 60 s none is begun.
        input: shape of made-up inputs, batch axis first.
        seed: of torch, numpy and random, 0 by default.
        device: for a file: where to train it, the CPU by default. A module stays where it is.
        batch_size: samples in a batch, where gradscope makes the batches.
        run_dir: folder of the recording; a new one under ``.gradscope`` by default.
        overwrite: replace a recording that is in ``run_dir``.
        select: only these rules: ``CODE`` or ``CODE:layer-pattern``.
        ignore: not these.
        fail_on: least severity for exit code 1: critical, warning (default), note or never.
        baseline: JSON document of an earlier run; its findings are marked and do not count.
        try_fixes: train again with each fix, in child processes; True by default.
        trial_steps: steps of each training of a trial, 60 by default.
        trial_seeds: seeds of each fix, 3 by default.
        trial_budget: seconds for all trials, 120 by default; also "2m".
        explain: also take one step of the trained model apart, see ``trace``.

    Raises:
        UsageError: an argument that cannot be used.
        LoadError: the file cannot be imported, or a part is missing or does not fit.
        StepError: the model failed while it was trained; its hint names the run folder, which
            holds what was recorded until then.
    """
    settings = config.settings().with_flags(
        steps=steps, input=input, seed=seed, device=device, batch_size=batch_size,
        select=patterns(select), ignore=patterns(ignore), fail_on=fail_on,
        baseline=None if baseline is None else str(baseline), try_fixes=try_fixes,
        trial_steps=trial_steps, trial_seeds=trial_seeds, trial_budget=trial_budget,
    )  # fmt: skip
    folder = None if run_dir is None else Path(run_dir)
    if isinstance(target, nn.Module):
        label = variable_of(target, sys._getframe(1)) or "model"
        refuse_wrong_patterns(settings)
        with left_as_it_was(target, optimizer):
            seed_all(settings.seed)
            parts = {"batches": batches, "loss": loss, "optimizer": optimizer, "label": label}
            workload = from_objects(
                target, **parts,
                input_shape=settings.input, batch_size=settings.batch_size, seed=settings.seed,
            )  # fmt: skip
            before = Before.of(workload)
            checked = _run(workload, settings, folder, overwrite, "", None)
            if explain:
                checked = _explained(checked, workload, settings, {})
        if settings.try_fixes:
            # the module is again as it was, and the trials leave it so: they run in children
            diagnosis = try_workload(checked.diagnosis, workload, before, settings)
            checked = replace(checked, diagnosis=kept(diagnosis, checked.folder))
    elif (batches, loss, optimizer) != (None, None, None):
        raise UsageError(
            "batches, loss and optimizer belong to a module",
            hint="put them into the file under these names, or give the module itself",
        )
    else:
        checked = check_file(
            str(target), settings, run_dir=folder, overwrite=overwrite, explain=explain
        )
    failure = checked.failure
    if failure is not None:
        until_then = f"gradscope report {checked.folder} shows what was recorded until then"
        failure.hint = f"{failure.hint}; {until_then}" if failure.hint else until_then
        raise failure
    return checked.diagnosis


def check_file(
    target: str,
    settings: config.Settings,
    *,
    run_dir: Path | None = None,
    overwrite: bool = False,
    loaded: Callable[[Workload], None] | None = None,
    progress: AbstractContextManager[Progress | None] | None = None,
    trials: AbstractContextManager[Tell] | None = None,
    explain: bool = False,
) -> Checked:
    """``check`` of a file, which also gives what was recorded before the user's code failed.

    Args:
        target: ``model.py[:object]``.
        settings: what is in force.
        run_dir: see ``check``.
        overwrite: see ``check``.
        loaded: told what was found in the file, before the first step.
        progress: entered for the training; gives what is told of each step.
        trials: entered where fixes are tried; gives what is told of each training.
        explain: also take one step of the trained model apart.
    """
    refuse_wrong_patterns(settings)
    file = parse(target).file
    with surroundings(file), random_states_kept():
        workload = load(
            target, input_shape=settings.input, device=settings.device,
            batch_size=settings.batch_size, seed=settings.seed,
        )  # fmt: skip
        if loaded is not None:
            loaded(workload)
        reproduce = _command_line(target, settings)
        checked = _run(workload, settings, run_dir, overwrite, reproduce, progress)
        if explain:
            checked = _explained(checked, workload, settings, vars(sys.modules[file.stem]))
    asked = settings.try_fixes and not checked.diagnosis.interrupted
    if asked and checked.diagnosis.findings:
        with trials or nullcontext(silent) as tell:
            diagnosis = try_file(checked.diagnosis, target, settings, tell)
        checked = replace(checked, diagnosis=kept(diagnosis, checked.folder))
    return checked


def _explained(
    checked: Checked, workload: Workload, settings: config.Settings, found: Mapping[str, Any]
) -> Checked:
    if checked.failure is not None:
        return checked
    diagnosis = explaining.explain(
        checked.diagnosis, checked.folder, workload, settings.seed, found
    )
    return replace(checked, diagnosis=diagnosis)


def _run(
    workload: Workload,
    settings: config.Settings,
    run_dir: Path | None,
    overwrite: bool,
    reproduce: str,
    progress: AbstractContextManager[Progress | None] | None,
) -> Checked:
    fail_on = settings.fail_on or "warning"
    folder = run_dir or default_folder(workload.target)
    writer = Writer(folder, overwrite=overwrite)
    observer = Observer(
        [workload.model], labels=[workload.label], writer=writer, optimizer=workload.optimizer,
        budget=None, command="check", target=workload.target,
    )  # fmt: skip
    facts = {
        "seed": settings.seed,
        "assumptions": list(workload.assumptions),
        "settings": {
            "steps": settings.steps, "device": settings.device, "took": dict(workload.took),
            **judging_facts(settings), "fail_on": fail_on, "reproduce": reproduce,
        },
    }  # fmt: skip
    for key, value in facts.items():
        observer.fact(key, value)
    glance = Glance(workload)
    workload = glance.workload
    observer.attach()
    failure: StepError | None = None
    try:
        with progress or nullcontext() as tell:
            ended = train(
                workload, steps=settings.steps, seconds=TIME_LIMIT, progress=tell,
                examining=observer.examining,
            )  # fmt: skip
        if ended is not None:
            observer.fact("interrupted", ended)
    except StepError as error:
        failure = error
        observer.fact("failed", error.what)
    finally:
        observer.detach()
        if failure is None:
            writer.records("gradchecks", glance.rows(settings.seed))
        writer.close()
    if failure is not None and observer.steps == 0:
        # nothing was recorded that a report could show
        if run_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise failure
    return Checked(judge(load_run(folder)), failure, folder)


def _command_line(target: str, settings: config.Settings) -> str:
    default = config.Settings()
    words = ["gradscope", "check", target]
    for flag in (
        "steps", "input", "seed", "device", "batch_size", "select", "ignore", "fail_on", "baseline",
        "try_fixes", "trial_steps", "trial_seeds", "trial_budget",
    ):  # fmt: skip
        value = getattr(settings, flag)
        if value == getattr(default, flag):
            continue
        name = f"--{flag.replace('_', '-')}"
        if flag == "try_fixes":
            words.append("--no-try-fixes")
            continue
        each = [",".join(map(str, value))] if flag == "input" else value
        for one in each if isinstance(each, list | tuple) else [each]:
            words += [name, str(one)]
    return shlex.join(words)
