"""What a stream can show: colour, width, characters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console


@dataclass(frozen=True, slots=True)
class Screen:
    """How text is to be written; the defaults suit a file.

    Attributes:
        width: columns at which prose is wrapped.
        colour: whether to write ANSI colours.
        encoding: what the characters must fit into.
    """

    width: int = 100
    colour: bool = False
    encoding: str = "utf-8"


def screen_of(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Screen:
    """What ``stream`` can show.

    Colour is decided by FORCE_COLOR, then NO_COLOR, then CLICOLOR_FORCE (each if it is set and not
    empty; FORCE_COLOR and CLICOLOR_FORCE also not "0"), then by whether the stream is a terminal
    other than ``TERM=dumb``. The width is a terminal's own, between 40 and 120 columns.
    """
    terminal = stream.isatty()
    width = min(max(Console(file=stream, _environ=environ).width, 40), 120) if terminal else 100
    return Screen(width, _colour(terminal, environ), stream.encoding or "ascii")


def _colour(terminal: bool, environ: Mapping[str, str]) -> bool:
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return terminal and environ.get("TERM") != "dumb"
