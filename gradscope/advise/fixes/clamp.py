"""clamp: an operation's operand is kept inside the range in which it is finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gradscope.advise.fix import Change, Edits, Remedy, Treatment, lead
from gradscope.advise.numerics import clamped, epsilon, operations, shown_at, unselected
from gradscope.advise.source import Source
from gradscope.advise.treatments.functions import Clamp as Clamped
from gradscope.diagnose.finding import Finding
from gradscope.recording.reader import Recording

_FROM_ZERO = ("log", "log2", "log10", "sqrt", "rsqrt", "pow", "lgamma", "digamma")
_UP_TO_ONE = ("acos", "asin", "atanh", "erfinv")
_OVERFLOWS = ("exp", "exp2", "expm1", "cosh", "sinh")
_OTHER = ("acosh", "log1p", "logit")
_TREATED = (*_FROM_ZERO, *_UP_TO_ONE, *_OVERFLOWS, *_OTHER)


class Clamp(Remedy):
    """``log(p)`` becomes ``log(p.clamp(min=1e-8))``."""

    name = "clamp"
    answers: ClassVar[Mapping[str, int]] = {"GS201": 3}

    def applies(self, finding: Finding, recording: Recording, source: Source) -> str | None:
        """The first non-finite value comes from an operation with a limited domain."""
        origin = finding.origin
        if origin is None or origin.operation not in _TREATED or origin.phase == "input":
            return None
        bounds = _bounds(origin.operation, recording)
        measured = origin.reason or lead(finding)
        return (
            f"{measured}: `{origin.operation}` is finite on its whole input after clamp({bounds})"
            f"{unselected(finding, source)}"
        )

    def change(self, finding: Finding, recording: Recording, source: Source) -> Change:
        """Clamp the operand on the recorded line."""
        assert finding.origin is not None
        bounds = _bounds(finding.origin.operation, recording)
        edits = Edits()
        for operation in operations(finding, source, _TREATED):
            edits.add(operation.file, clamped(operation, bounds))
        return Change(
            title=f"clamp what {shown_at(finding)} reads to {bounds}",
            applicability="may-change-results",
            cost="where the bound is active the gradient is 0",
            edits=edits,
            snippet=f"torch.{finding.origin.operation}(x.clamp({bounds}))",
        )

    def treatment(self, finding: Finding, recording: Recording, source: Source) -> Treatment:
        """Clamp on the recorded line."""
        origin = finding.origin
        assert origin is not None
        if origin.location is None:
            return Treatment(untried="the line of the operation is not known")
        place, low, high = origin.location, *_limits(origin.operation, recording)
        return Treatment((Clamped(place.file, (place.line,), origin.operation, low, high),))


def _limits(operation: str, recording: Recording) -> tuple[float | None, float | None]:
    """What ``_bounds`` says, in numbers."""
    half = epsilon(recording) == "1e-4"
    if operation in _UP_TO_ONE:
        near = 1e-3 if half else 1e-6
        return -1 + near, 1 - near
    if operation in _OVERFLOWS:
        return None, 11.0 if half else 80.0
    return float(epsilon(recording)), None


def _bounds(operation: str, recording: Recording) -> str:
    small = epsilon(recording)
    if operation in _UP_TO_ONE:
        # 1 - 1e-8 rounds to 1 in float32
        near = "1e-3" if small == "1e-4" else "1e-6"
        return f"min=-1 + {near}, max=1 - {near}"
    if operation in _OTHER:
        near = "1e-3" if small == "1e-4" else "1e-6"
        return {
            "acosh": f"min=1 + {near}", "log1p": f"min=-1 + {near}",
            "logit": f"min={near}, max=1 - {near}",
        }[operation]  # fmt: skip
    if operation in _OVERFLOWS:
        # exp(88.7) is the largest float32 and exp(11.09) the largest float16
        return "max=11" if small == "1e-4" else "max=80"
    return f"min={small}"
