"""Trying the fixes of a diagnosis: the training of a checked file, repeated by trials."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from gradscope import config
from gradscope.advise.advisor import options
from gradscope.advise.arm import Start
from gradscope.advise.kept_trials import records_of
from gradscope.advise.trials import Limits, Tell, Trials
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.recording.appending import append
from gradscope.running.importing import surroundings
from gradscope.running.loading import Workload, load
from gradscope.running.target import parse
from gradscope.running.training import train

STRIDE = 1_000
"""Seed k adds 1,000 · k to every seed, so that no seed of one run is one of another's."""


def silent(name: str, seed: int, done: int, planned: int) -> None:
    """Tells nobody; see ``advise.trials.Tell``."""


def try_file(
    diagnosis: Diagnosis, target: str, settings: config.Settings, tell: Tell = silent
) -> Diagnosis:
    """Try the fixes of a checked file; each seed imports the file anew in a process of its own.

    Args:
        diagnosis: what ``check_file`` gave.
        target: ``model.py[:object]``.
        settings: as for ``check_file``; they hold the limits of the trials, too.
        tell: see ``advise.trials.Tell``.
    """
    prepare = functools.partial(file_start, target, settings)
    return tried(diagnosis, prepare, settings, tell)


_UNTIL_THE_END = ExitStack()
"""Never left: what stands around the user's code is needed until the child process ends. A stack
without a name would be undone as soon as it is entered."""


def file_start(target: str, settings: config.Settings, seed: int) -> Start:
    """The training of a file, in a child process, ready for its first step."""
    _UNTIL_THE_END.enter_context(surroundings(parse(target).file))
    workload = load(
        target, input_shape=settings.input, device=settings.device,
        batch_size=settings.batch_size, seed=settings.seed + STRIDE * seed,
    )  # fmt: skip
    return start_of(workload)


def start_of(workload: Workload) -> Start:
    """A workload's loop, as an arm of a trial runs it."""

    def run(steps: int) -> None:
        train(workload, steps=steps, seconds=math.inf)

    return Start(run, roots=(workload.model,))


def tried(
    diagnosis: Diagnosis,
    prepare: Callable[[int], Start],
    settings: config.Settings,
    tell: Tell,
) -> Diagnosis:
    """Try the fixes of a diagnosis within the limits of the settings; see ``Trials``."""
    limits = Limits(settings.trial_steps, settings.trial_seeds, settings.trial_budget)
    return Trials(diagnosis, options(diagnosis), prepare, limits, tell).run()


def kept(diagnosis: Diagnosis, folder: Path) -> Diagnosis:
    """The diagnosis, whose trials are added to its run folder: later reports tell of them, too.

    Args:
        diagnosis: with its trials.
        folder: of the run, which has ended.
    """
    try:
        append(folder, "trials", records_of(diagnosis, diagnosis.recording))
    except OSError as error:
        # what was found out is worth telling now, whether it can be told again or not
        text = f"what came of the fixes is not kept in {folder}: {error.strerror or error}"
        return replace(diagnosis, errors=(*diagnosis.errors, text))
    return diagnosis
