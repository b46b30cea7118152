"""add-epsilon: a small constant keeps log, sqrt and a division away from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, lead
from gradscope.advise.numerics import epsilon, operations, plus, shown_at
from gradscope.advise.source import Source
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

AT_ZERO = ("log", "log2", "log10", "sqrt", "rsqrt", "div", "reciprocal")
"""Operations, or derivatives of operations, that are not finite at 0."""


class AddEpsilon(Remedy):
    """``log(p)`` becomes ``log(p + 1e-8)``."""

    name = "add-epsilon"
    answers: ClassVar[Mapping[str, int]] = {"GS201": 2}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The first non-finite value comes from an operation that is not finite at 0."""
        origin = finding.origin
        if origin is None or origin.operation not in AT_ZERO or origin.phase == "input":
            return None
        where = " in its derivative" if origin.phase == "backward" else ""
        measured = origin.reason or lead(finding)
        return (
            f"{measured}: `{origin.operation}` is not finite{where} at 0; with "
            f"{epsilon(recording)} added to what it reads it is"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Add the constant on the recorded line."""
        assert finding.origin is not None
        small = epsilon(recording)
        edits = Edits()
        for operation in operations(finding, source, AT_ZERO):
            edits.add(operation.file, plus(operation, small))
        name = finding.origin.operation
        example = f"a / (b + {small})" if name == "div" else f"torch.{name}(x + {small})"
        return Change(
            title=f"add {small} to what {shown_at(finding)} reads",
            applicability="may-change-results",
            cost=f"values near 0 shift by {small}; a negative value stays a fault",
            edits=edits,
            snippet=example,
        )
