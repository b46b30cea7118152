"""The user's line that a finding points at, and the part of it that builds the layer."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass

from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording
from gradscope.report.summary import where


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One source line.

    Attributes:
        line: its number, from 1.
        text: the line as it stands in the file, without its end.
        start, end: columns (characters, from 0, end exclusive) of the part that is meant.
    """

    line: int
    text: str
    start: int
    end: int


def excerpt(recording: Recording, finding: Finding) -> Excerpt | None:
    """The line of ``finding``, from the text recorded when the run began; None if absent.

    The part that is meant is the call that builds the finding's first module or makes the bad
    value, where exactly one call on the line bears that name; else the line's only outermost call;
    else the whole line.
    """
    location = where(finding)
    source = recording.sources.get(location.file) if location else None
    if location is None or source is None:
        return None
    lines = source.replace("\r\n", "\n").split("\n")
    if not 1 <= location.line <= len(lines) or not lines[location.line - 1].strip():
        return None
    text = lines[location.line - 1]
    start = len(text) - len(text.lstrip())
    whole = Excerpt(location.line, text, start, len(text.rstrip()))
    call = _call(source, location.line, _wanted(recording, finding))
    if call is None:
        return whole
    # ast counts UTF-8 bytes, people and terminals count characters
    raw = text.encode("utf-8", "surrogatepass")
    begin = len(raw[: call.col_offset].decode("utf-8", "replace"))
    if call.end_lineno != location.line or call.end_col_offset is None:
        return Excerpt(location.line, text, begin, len(text.rstrip()))
    end = len(raw[: call.end_col_offset].decode("utf-8", "replace"))
    return Excerpt(location.line, text, begin, end)


def _wanted(recording: Recording, finding: Finding) -> str | None:
    if finding.location is None and finding.origin:
        return finding.origin.operation
    if not finding.modules:
        return None
    modules = recording.modules
    types = modules.loc[modules["name"] == finding.modules[0], "type"]
    return None if types.empty else str(types.iloc[0])


def _call(source: str, line: int, wanted: str | None) -> ast.Call | None:
    try:
        with warnings.catch_warnings():
            # the user's file may hold an invalid escape; that is not this report's business
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.lineno == line]
    named = [call for call in calls if _name(call.func) == wanted]
    if named:
        return named[0] if len(named) == 1 else None
    inner = {id(part) for call in calls for part in ast.walk(call) if part is not call}
    outermost = [call for call in calls if id(call) not in inner]
    return outermost[0] if len(outermost) == 1 else None


def _name(function: ast.expr) -> str | None:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None
