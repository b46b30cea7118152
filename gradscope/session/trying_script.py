"""Trying the fixes of a script: it is run again in a temporary copy of its folder."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from gradscope import config
from gradscope.advise.advisor import options
from gradscope.advise.arm import Start
from gradscope.advise.trials import Limits, Tell, Trials, untried
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.observe.experiment.seeding import shift_seeds
from gradscope.observe.frames import owner
from gradscope.running import working_copy
from gradscope.running.script import Script, execute
from gradscope.session.trying import STRIDE, silent

_TRACKERS = {
    "WANDB_MODE": "disabled", "COMET_MODE": "disabled", "NEPTUNE_MODE": "debug",
    "MLFLOW_TRACKING_URI": "", "HF_HUB_DISABLE_TELEMETRY": "1", "TENSORBOARD_WRITE": "0",
    "GRADSCOPE": "0",
}  # fmt: skip
"""Experiment trackers stay silent in a trial, and gradscope's own calls in the script, too."""


def try_script(
    diagnosis: Diagnosis, script: Script, settings: config.Settings, tell: Tell = silent
) -> Diagnosis:
    """Try the fixes of a script that was run; nothing of its folder is changed.

    The script is run again from its first line in a temporary copy of its folder (of the working
    directory, where it lies below it), with the change applied in memory, and stopped after the
    trial's steps. What it writes by an absolute path is written all the same.

    Args:
        diagnosis: what ``run`` found.
        script: as it was run, from the same working directory.
        settings: with the limits of the trials.
        tell: see ``advise.trials.Tell``.
    """
    if not diagnosis.findings:
        return diagnosis
    cwd = Path.cwd()
    target = cwd / ("__main__.py" if script.module else script.target)
    try:
        working_copy.refuse_large(working_copy.root_of(target, cwd))
    except (working_copy.TooLargeError, OSError) as error:
        return untried(diagnosis, str(error))
    run = diagnosis.recording.run
    modules = diagnosis.recording.modules
    roots = modules.loc[modules["module"] == modules["root"], "type"]
    limits = Limits(settings.trial_steps, settings.trial_seeds, settings.trial_budget)
    with tempfile.TemporaryDirectory(prefix="gradscope-trials-") as below:
        prepare = functools.partial(
            script_start, script, (str(cwd), below), tuple(dict.fromkeys(map(str, roots))),
            not run.get("optimizers"), tuple(libraries()),
        )  # fmt: skip
        return Trials(diagnosis, options(diagnosis), prepare, limits, tell, mode="new").run()


def libraries() -> Iterable[str]:
    """Modules of installed packages that this process has imported: each trial needs them again."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name.count(".") < 2 and owner(str(file)) == "library":
            yield name


def script_start(
    script: Script, places: tuple[str, str], kinds: tuple[str, ...], by_hand: bool,
    modules: tuple[str, ...], seed: int,
) -> Start:  # fmt: skip
    """What is common to all trainings of one seed: imports, and a first step of an optimizer.

    Args:
        script: what is run.
        places: its working directory, and the folder for copies.
        kinds: see ``Start``.
        by_hand: see ``Start``.
        modules: to be imported.
        seed: number of the seed.
    """
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    # the first optimizer imports much more of torch, in each trial anew if not here
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.SGD([weight], lr=0.1).step()
    run = functools.partial(_run, script, Path(places[0]), Path(places[1]), STRIDE * seed)
    return Start(run, kinds=kinds, by_hand=by_hand)


def _run(script: Script, cwd: Path, below: Path, offset: int, _steps: int) -> None:
    target = cwd / ("__main__.py" if script.module else script.target)
    copy = working_copy.make(target, cwd, below)
    os.environ.update(_TRACKERS)
    os.chdir(copy.cwd)
    shift_seeds(offset)
    here = script if script.module else replace(script, target=str(copy.script))
    sys.path.insert(0, "")  # what execute() puts the script's folder in place of
    with suppress(SystemExit):
        execute(here)
