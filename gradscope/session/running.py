"""``run``: a script that somebody else wrote, watched while it trains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope import config
from gradscope.recording.claim import claim
from gradscope.recording.folder import default_folder
from gradscope.recording.shards import segments
from gradscope.running.script import Script, refuse_missing
from gradscope.session.launching import launched_as

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gradscope.advise.trials import Tell
    from gradscope.diagnose.diagnosis import Diagnosis

REPORT = "report.html"
"""Name of the page in the run folder."""


@dataclass(frozen=True)
class Ran:
    """How a script ended and what was found.

    Attributes:
        code: the exit code: the script's own where that is not 0, else by ``fail_on``; ``-2`` or
            ``-15`` where a signal ended it, as ``subprocess`` gives it.
        diagnosis: what was found; None on a rank other than 0, and where it failed itself.
        folder: the run folder.
    """

    code: int
    diagnosis: Diagnosis | None
    folder: Path

    @property
    def nothing(self) -> str:
        """Why there is no training to judge, as a sentence; "" where a step was recorded."""
        if self.diagnosis is None or len(self.diagnosis.recording.steps):
            return ""
        return next(iter(self.diagnosis.recording.limits), "nothing was trained")


@dataclass(frozen=True)
class Wanted:
    """What a user asks of ``run``.

    Attributes:
        settings: what is in force.
        run_dir: folder of the recording; None for a new one under ``.gradscope``.
        overwrite: replace a recording that is in ``run_dir``.
        every: record parameters on every k-th step, modules on every 10·k-th.
        budget: gradscope's share of the training's time, where ``every`` is None.
        max_steps: end the script after this many optimizer steps.
        deliver: told of the result when it is there; a failure of it is told and does no harm.
    """

    settings: config.Settings = field(default_factory=config.Settings)
    run_dir: Path | None = None
    overwrite: bool = False
    every: int | None = None
    budget: float = 0.10
    max_steps: int | None = None
    deliver: Callable[[Ran], None] = lambda ran: None


def run(
    script: str | Path,
    *arguments: str,
    module: bool = False,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    every: int | None = None,
    max_steps: int | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str | None = None,
    baseline: str | Path | None = None,
) -> Ran:
    """Run a script in a process of its own, exactly as ``python script.py`` would, and judge it.

    Nothing in the script or its training changes. What it prints goes where this process prints.

    Args:
        script: path of the script, or the name of a module.
        arguments: its command line.
        module: whether ``script`` is the name of a module.
        run_dir: folder of the recording and the report; a new one under ``.gradscope`` by default.
        overwrite: replace a recording that is in ``run_dir``.
        every: record parameters on every k-th step, modules on every 10·k-th; by default as often
            as 10 % of the training's time allow.
        max_steps: end the script after this many optimizer steps, with exit code 0.
        select: only these rules: ``CODE`` or ``CODE:layer-pattern``.
        ignore: not these.
        fail_on: least severity for exit code 1 of a script that ended with 0; never by default.
        baseline: JSON document of an earlier run; its findings are marked and do not count.

    Raises:
        UsageError: an argument that cannot be used, or a script that is not there.
        RunFolderError: ``run_dir`` holds a recording already, and ``overwrite`` is not given.
    """
    from gradscope.session.judging import from_folder, refuse_wrong_patterns
    from gradscope.session.judging_settings import patterns

    flags = {
        "select": patterns(select), "ignore": patterns(ignore), "fail_on": fail_on,
        "baseline": None if baseline is None else str(baseline),
    }  # fmt: skip
    wanted = Script(str(script), tuple(map(str, arguments)), module)
    refuse_missing(wanted)
    settings = config.settings().with_flags(**flags)
    refuse_wrong_patterns(settings)
    folder = Path(run_dir or default_folder(str(script))).absolute()
    claim(folder, 0, overwrite=overwrite)
    words = ["--quiet", "--run-dir", str(folder)]
    for name, value in {**flags, "every": every, "max_steps": max_steps}.items():
        for one in value if isinstance(value, tuple) else [value] if value is not None else []:
            words += [f"--{name.replace('_', '-')}", str(one)]
    command = [sys.executable, "-m", "gradscope", "run", *words, *wanted.words]
    code = subprocess.run(command, check=False).returncode
    return Ran(code, from_folder(folder) if segments(folder) else None, folder)


def with_trials(
    ran: Ran, script: Script, settings: config.Settings, telling: AbstractContextManager[Tell]
) -> Ran:
    """What was found, with the fixes tried: see ``trying_script.try_script``.

    Args:
        ran: of a script that has ended.
        script: as it was run.
        settings: with the limits of the trials.
        telling: entered for the trials; gives what is told of each training.
    """
    if ran.diagnosis is None or not ran.diagnosis.findings:
        return ran
    from gradscope.advise.trials import untried
    from gradscope.session.trying import kept

    if launched_as()[1] > 1:
        reason = "several ranks train together, and a trial runs one process"
        return replace(ran, diagnosis=kept(untried(ran.diagnosis, reason), ran.folder))
    from gradscope.session.trying_script import try_script

    with telling as tell:
        tried = try_script(ran.diagnosis, script, settings, tell)
    return replace(ran, diagnosis=kept(tried, ran.folder))
