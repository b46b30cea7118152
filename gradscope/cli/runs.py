"""``gradscope runs``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gradscope.errors import GradscopeError, UsageError
from gradscope.recording.load import load_run

_DEFAULT = Path(".gradscope")


@click.command()
@click.argument("folder", default=_DEFAULT, type=Path)
def runs(folder: Path) -> None:
    """List the recorded runs in FOLDER (.gradscope by default), newest first."""
    if folder != _DEFAULT and not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is no folder", hint="give the folder that holds runs")
    found = [item for item in folder.glob("*") if item.is_dir()]
    if not found:
        print(f"no runs in {folder}", file=sys.stderr)
    for run in sorted(found, key=lambda item: item.stat().st_mtime, reverse=True):
        print(f"{run}  {_state(run)}")


def _state(run: Path) -> str:
    try:
        recording = load_run(run)
    except GradscopeError as error:
        return f"cannot be read: {error.what}"
    facts = recording.run
    ended = facts.get("failed") or facts.get("interrupted")
    if not ended:
        ended = "finished" if facts.get("finished") else "not finished"
    steps = len(recording.steps)
    return (
        f"{facts.get('command', '?')} {facts.get('target', '?')}, {facts.get('started', '?')}, "
        f"{steps} step{'' if steps == 1 else 's'}, {ended}"
    )
