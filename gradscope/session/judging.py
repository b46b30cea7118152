"""From a recording to a diagnosis with fixes, and to files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from gradscope import config
from gradscope.advise.advisor import advise
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.finding import Severity
from gradscope.diagnose.rule import Rule
from gradscope.errors import UsageError
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.report.formats import format_for, render
from gradscope.rules import RULES
from gradscope.rules.registry import all_rules


def rules() -> tuple[type[Rule], ...]:
    """All rules that judge: gradscope's own and those of other packages."""
    return all_rules(RULES)


def judge(recording: Recording) -> Diagnosis:
    """The diagnosis of a recording, with fixes, by the settings that it holds itself."""
    run = recording.run
    settings = run.get("settings") or {}
    fail_on = settings.get("fail_on") or "never"
    diagnosis = diagnose(
        recording,
        rules(),
        select=settings.get("select", ()),
        ignore=settings.get("ignore", ()),
        options=settings.get("rules"),
        fail_on=None if fail_on == "never" else cast(Severity, fail_on),
        reproduce=settings.get("reproduce", ""),
    )
    return replace(advise(diagnosis), failed=str(run.get("failed") or ""))


def from_folder(folder: str | Path) -> Diagnosis:
    """The diagnosis of a run on disk, from what is there alone.

    Raises:
        RecordingError: the folder holds no recording that can be read.
    """
    return judge(load_run(folder))


def save(diagnosis: Diagnosis, path: str | Path, format: str | None = None) -> Path:
    """Write a diagnosis to a file, whole or not at all.

    Args:
        diagnosis: what to write.
        path: the file; folders above it are made.
        format: a name of ``report.formats.FORMATS``; None to take it from the suffix.

    Raises:
        UsageError: the format is not known, or the file cannot be written.
    """
    path = Path(path)
    text = render(diagnosis, format or format_for(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return path


def refuse_wrong_patterns(settings: config.Settings) -> None:
    """Tell of a wrong pattern or option before a training, not after it.

    Raises:
        UsageError: a pattern that selects nothing.
        ConfigError: an option that no rule has.
    """
    nothing = Recording({}, {})
    diagnose(
        nothing,
        rules(),
        select=settings.select,
        ignore=settings.ignore,
        options=settings.rules,
    )


def patterns(given: Iterable[str]) -> tuple[str, ...]:
    """Patterns as a tuple; a single text is one pattern, not a row of letters."""
    return (given,) if isinstance(given, str) else tuple(given)
