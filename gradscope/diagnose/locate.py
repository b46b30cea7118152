"""From a name in the recording to a line of the user's code."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gradscope.diagnose.finding import Location
from gradscope.recording.reader import Recording


def location_of(recording: Recording, module_name: str) -> Location | None:
    """The line that builds ``module_name``, or None where it was not found.

    A module whose own line is unknown (built inside a library) is located at the line that builds
    the nearest parent whose line is known: that is the line that a person can edit.
    """
    by_name = {str(row["name"]): row for _, row in recording.modules.iterrows()}
    name = module_name
    while True:
        row = by_name.get(name)
        if row is not None and (found := place(row["file"], row["line"])):
            return found
        if not name:
            return None
        name = name.rpartition(".")[0]


def place(file: Any, line: Any) -> Location | None:
    """A Location from two cells of a frame, None if either is absent."""
    if file is None or line is None or pd.isna(file) or pd.isna(line):
        return None
    return Location(str(file), int(line))


def site_location(site: Any) -> Location | None:
    """A Location from a call site written as ``file:line``."""
    if not isinstance(site, str):
        return None
    file, _, line = site.rpartition(":")
    return Location(file, int(line)) if file and line.isdigit() else None
