"""add-epsilon: a small constant keeps log, sqrt and a division away from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.numerics import epsilon, operations, plus, shown_at, unselected
from gradscope.advise.source import Source
from gradscope.advise.treatments.functions import AddEpsilon as Added
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

AT_ZERO = ("log", "log2", "log10", "sqrt", "rsqrt", "div", "reciprocal", "pow")
"""Operations, or derivatives of operations, that are not finite at 0."""


class AddEpsilon(Remedy):
    """``log(p)`` becomes ``log(p + 1e-8)``."""

    name = "add-epsilon"
    answers: ClassVar[Mapping[str, int]] = {"GS201": 2}

    def __init__(self, term: str = "") -> None:
        """Make one that adds ``term``; "" for the smallest that this number format keeps."""
        self.term = term

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The first non-finite value comes from an operation that is not finite at 0."""
        origin = finding.origin
        if origin is None or origin.operation not in AT_ZERO or origin.phase == "input":
            return None
        where = " in its derivative" if origin.phase == "backward" else ""
        measured = origin.reason or lead(finding)
        return (
            f"{measured}: `{origin.operation}` is not finite{where} at 0; with "
            f"{epsilon(recording)} added to what it reads it is{unselected(finding, source)}"
        )

    def variants(
        self, finding: Finding, recording: Recording, source: Source
    ) -> tuple[Remedy, ...]:
        """Larger terms too: next to 0 the derivative is as large as the term is small."""
        least = float(epsilon(recording))
        return (self, *(AddEpsilon(t) for t in ("1e-4", "1e-2") if float(t) > least))

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Add the constant on the recorded line."""
        assert finding.origin is not None
        small = self.term or epsilon(recording)
        edits = Edits()
        for operation in operations(finding, source, AT_ZERO):
            edits.add(operation.file, plus(operation, small))
        name = finding.origin.operation
        examples = {
            "div": f"a / (b + {small})", "reciprocal": f"1 / (b + {small})",
            "pow": f"(x + {small}) ** p",
        }  # fmt: skip
        example = examples.get(name, f"torch.{name}(x + {small})")
        return Change(
            title=f"add {small} to what {shown_at(finding)} reads",
            applicability="may-change-results",
            cost=f"values near 0 shift by {small}; a negative value stays a fault",
            edits=edits,
            snippet=example,
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """The term on the recorded line."""
        origin = finding.origin
        assert origin is not None
        if origin.location is None:
            return Treatment(untried="the line of the operation is not known")
        place = origin.location
        return Treatment(
            (
                Added(
                    place.file,
                    (place.line,),
                    origin.operation,
                    float(self.term or epsilon(recording)),
                ),
            )
        )
