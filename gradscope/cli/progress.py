"""A bar on stderr while the steps run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console

if TYPE_CHECKING:
    from gradscope.running.training import Progress


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
    # transient: the verdict below should not stand under a leftover
    console = Console(stderr=True, no_color=True if color == "never" else None)
    with progress.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("training", total=steps, loss=float("nan"))
        yield lambda step, loss: shown.update(task, completed=step + 1, loss=loss)
