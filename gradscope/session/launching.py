"""``gradscope run -m torch.distributed.run …``: the launcher runs plain, its ranks are watched."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradscope.running.script import Script

_MODULES = ("torch.distributed.run", "torch.distributed.launch")
_PROGRAM = "torchrun"


def is_launcher(script: Script) -> bool:
    """Whether a script only starts others: torchrun, by its name or as a module."""
    if script.module:
        return script.target in _MODULES
    return Path(script.target).stem == _PROGRAM


def through_launcher(script: Script, options: Sequence[str]) -> Script:
    """The launcher's command line, with ``gradscope run`` before the script that it starts.

    Args:
        script: the launcher.
        options: options of ``gradscope run`` for each rank.

    Returns:
        the same launcher; unchanged where it starts a program that is no Python script.
    """
    from torch.distributed import run as launcher

    given = list(script.arguments)
    parsed = launcher.get_args_parser().parse_args(given)
    # Python warns of a module that was imported before it is run
    sys.modules.pop(launcher.__name__, None)
    if parsed.no_python:
        print(
            f"gradscope: {parsed.training_script} is started without Python and is not watched",
            file=sys.stderr,
        )
        return script
    own = given[: len(given) - 1 - len(parsed.training_script_args)]
    words = [*own, *([] if parsed.module else ["-m"]), "gradscope", "run", *options]
    words += [*(["-m"] if parsed.module else []), parsed.training_script]
    return replace(script, arguments=(*words, *parsed.training_script_args))


def launched_as() -> tuple[int, int]:
    """Rank and number of ranks that the launcher's environment tells; 0 of 1 without one."""
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
