"""Results that are no diagnosis, written in the order and to the places that were asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gradscope.cli.outputs import Output, screen

if TYPE_CHECKING:
    from gradscope.report.screen import Screen


class Renders(Protocol):
    """Gives a result in one format."""

    def __call__(
        self, format: str, *, screen: Screen | None = None, report: Path | None = None
    ) -> str:
        """The text."""


def deliver(render: Renders, wanted: Sequence[Output], *, quiet: bool, color: str) -> None:
    """Write the files, then print what goes to stdout; without a format for it the full text.

    Args:
        render: the result in any format.
        wanted: see ``outputs.outputs``.
        quiet: print no text that was not asked for.
        color: auto, always or never.
    """
    from gradscope.session.judging import write

    files = [(output.format, output.path) for output in wanted if output.path is not None]
    for format, path in files:
        write(path, render(format))
    pages = [path for format, path in files if format == "html"]
    printed = [output.format for output in wanted if output.path is None]
    if not printed and not quiet:
        printed = ["full"]
    for format in printed:
        shown = screen(color, sys.stdout)
        text = render(format, screen=shown, report=pages[0] if pages else None)
        print(text, end="")
    sys.stdout.flush()
