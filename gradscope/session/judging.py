"""From a recording to a diagnosis with fixes, and to files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gradscope import config
from gradscope.advise.advisor import advise
from gradscope.advise.kept_trials import with_kept
from gradscope.baseline import known_in, mark
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.finding import Severity
from gradscope.diagnose.rule import Rule
from gradscope.errors import UsageError
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.report.formats import format_for, render
from gradscope.report.page_assets import PLACES
from gradscope.rules import RULES
from gradscope.rules.registry import all_rules
from gradscope.session.judging_settings import judging_facts, patterns


def rules() -> tuple[type[Rule], ...]:
    """All rules that judge: gradscope's own and those of other packages."""
    return all_rules(RULES)


def judge(
    recording: Recording, given: Mapping[str, Any] | None = None, *, trials: bool = True
) -> Diagnosis:
    """The diagnosis of a recording, with fixes, by the settings that it holds itself.

    Args:
        recording: what was recorded.
        given: settings that replace those of the recording: ``select``, ``ignore``, ``rules``,
            ``fail_on``, ``known``.
        trials: whether the fixes get what the recording keeps of earlier trials.
    """
    run = recording.run
    settings = {**(run.get("settings") or {}), **(given or {})}
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
    ended = replace(
        advise(diagnosis),
        failed=str(run.get("failed") or ""),
        interrupted=str(run.get("interrupted") or "").startswith("interrupted"),
        script_code=run.get("exit_code"),
    )
    return mark(with_kept(ended) if trials else ended, settings.get("known") or ())


def from_folder(
    folder: str | Path,
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    fail_on: str | None = None,
    baseline: str | Path | None = None,
) -> Diagnosis:
    """The diagnosis of a run on disk, from what is there alone.

    Args:
        folder: the run folder.
        select: in place of that of the run, see ``check``.
        ignore: likewise.
        fail_on: likewise.
        baseline: in place of the run's known findings, see ``baseline.known_in``.

    Raises:
        RecordingError: the folder holds no recording that can be read.
        UsageError: a pattern that selects nothing, or a baseline that cannot be read.
    """
    given = {
        "select": patterns(select) or None,
        "ignore": patterns(ignore) or None,
        "fail_on": fail_on,
        "known": None if baseline is None else sorted(known_in(baseline)),
    }
    asked = {key: value for key, value in given.items() if value is not None}
    return judge(load_run(folder), asked)


def save(
    diagnosis: Diagnosis, path: str | Path, format: str | None = None, *, assets: str = "inline"
) -> Path:
    """Write a diagnosis to a file, whole or not at all.

    Args:
        diagnosis: what to write.
        path: the file; folders above it are made.
        format: a name of ``report.formats.FORMATS``; None to take it from the suffix.
        assets: of a page: "inline" for one file that needs nothing else, "linked" for files beside
            it, which hosts that forbid scripts inside a page may allow.

    Raises:
        UsageError: the format is not known, or the file cannot be written.
    """
    path = Path(path)
    format = format or format_for(path)
    if assets not in PLACES:
        raise UsageError(f"assets {assets!r}", hint=f"take one of {', '.join(PLACES)}")
    if format != "html" or assets == "inline":
        return write(path, render(diagnosis, format))
    from gradscope.report import html, page_assets

    page = html.render(diagnosis, assets=assets)
    for name, text in page_assets.linked_files().items():
        write(path.with_name(name), text)
    return write(path, page)


def write(path: Path, text: str) -> Path:
    """Write a text to a file, whole or not at all; folders above it are made.

    Raises:
        UsageError: the file cannot be written.
    """
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
    """Tell of a wrong pattern, option or baseline before a training, not after it.

    Raises:
        UsageError: a pattern that selects nothing, or a baseline that cannot be read.
        ConfigError: an option that no rule has.
    """
    judging_facts(settings)
    nothing = Recording({}, {})
    diagnose(
        nothing,
        rules(),
        select=settings.select,
        ignore=settings.ignore,
        options=settings.rules,
    )
