"""A bar on stderr while the steps run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console

if TYPE_CHECKING:
    from gradscope.advise.trials import Tell
    from gradscope.finite_difference.options import Progress as ModulesDone
    from gradscope.running.training import Progress

PATIENCE = 2.0
"""Seconds before a bar is shown for what may be done at once."""


@contextmanager
def bar(steps: int, *, quiet: bool, color: str = "auto") -> Iterator[Progress | None]:
    """Show how far the training is; nothing where stderr is no terminal.

    Args:
        steps: steps that are to be run.
        quiet: show nothing.
        color: auto, always or never.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        progress.TextColumn("step"),
        progress.MofNCompleteColumn(),
        progress.BarColumn(),
        progress.TextColumn("loss {task.fields[loss]:.4g}"),
        progress.TimeRemainingColumn(),
    )
    with _progress(columns, color) as shown:
        task = shown.add_task("training", total=steps, loss=float("nan"))
        yield lambda step, loss: shown.update(task, completed=step + 1, loss=loss)


@contextmanager
def trials_bar(*, quiet: bool, color: str = "auto") -> Iterator[Tell]:
    """Show which fix is being tried with which seed; nothing where stderr is no terminal.

    Args:
        quiet: show nothing.
        color: auto, always or never.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda name, seed, done, planned: None
        return
    columns = (
        progress.TextColumn("trying {task.fields[fix]}, seed {task.fields[seed]}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    with _progress(columns, color) as shown:
        task = shown.add_task("trying", total=None, fix="fixes", seed=0)

        def tell(name: str, seed: int, done: int, planned: int) -> None:
            shown.update(task, completed=done, total=planned, fix=name, seed=seed)

        yield tell


@contextmanager
def modules_bar(*, quiet: bool, color: str = "auto") -> Iterator[ModulesDone | None]:
    """Show how many modules are done, once it takes longer than two seconds.

    Args:
        quiet: show nothing.
        color: auto, always or never.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        progress.TextColumn("checking {task.fields[module]}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    shown = _progress(columns, color)
    task = shown.add_task("checking", total=None, module="")
    began = time.monotonic()

    def tell(done: int, total: int, name: str) -> None:
        if not shown.live.is_started and time.monotonic() - began > PATIENCE:
            shown.start()
        shown.update(task, completed=done, total=total, module=name or "the model")

    try:
        yield tell
    finally:
        if shown.live.is_started:
            shown.stop()


def _progress(columns: tuple[progress.ProgressColumn, ...], color: str) -> progress.Progress:
    console = Console(stderr=True, no_color=True if color == "never" else None)
    # transient: the verdict below should not stand under a leftover
    return progress.Progress(*columns, console=console, transient=True)
