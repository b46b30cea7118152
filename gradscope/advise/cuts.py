"""Where the graph between the loss and a parameter is cut, as a look at an early step found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording


@dataclass(frozen=True, slots=True)
class Cut:
    """The operation that cut, and the user's line.

    Attributes:
        operation: ``detach``, ``no_grad``, ``argmax`` …
        file, line: where it stands; None if that is not known.
    """

    operation: str
    file: str | None
    line: int | None

    @property
    def place(self) -> str:
        """`` at model.py:12``, or "" if it is not known."""
        return f" at {self.file}:{self.line}" if self.file else ""


def cut_of(finding: Finding, recording: Recording, reasons: Sequence[str]) -> Cut | None:
    """The cut in front of the finding's parameters, if it is one of these.

    Args:
        finding: a finding about parameters without a gradient.
        recording: the run.
        reasons: values of ``parameters.unreached_reason``.
    """
    frame = recording.parameters.astype(object)
    names, modules = set(finding.parameters), set(finding.modules)
    for row in frame.to_dict("records"):
        meant = row["name"] in names or (not names and row["module_name"] in modules)
        if meant and row["unreached_reason"] in reasons:
            operation, line = row["unreached_operation"], row["unreached_line"]
            named = str(operation) if operation else ("no_grad" if "no-grad" in reasons else "")
            if named:
                known = int(line) if isinstance(line, int) else None
                return Cut(named, row["unreached_file"], known)
    return None
