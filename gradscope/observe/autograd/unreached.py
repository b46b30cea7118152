"""Why a loss does not depend on a parameter, from what an examination and the graph's walk saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from gradscope.observe.autograd.cuts import READING, reason_of
from gradscope.observe.autograd.graph import GraphView
from gradscope.observe.frames import Site
from gradscope.recording.facts import Activation

Kind = Literal["activation", "cut", "no-grad", "cast", "loss"]
UnreachedReason = Literal["frozen", "unused", "detached", "no-grad", "integer", "other"]


@dataclass(frozen=True)
class Seen:
    """Calls of one operation on one line, in one module.

    Attributes:
        kind: see ``facts.EXAMINED``.
        operation: name of the function: ``relu``, ``detach``, ``argmax``, ``float16`` ….
        module: innermost module that was running; None outside modules or when it is gone.
        site: first line outside torch and gradscope, or None.
        calls: number of calls.
        activation: kind of an activation, else UNKNOWN.
        behind: ``id`` of each leaf tensor behind the input of a cut, and of each one used under
            disabled grad; valid as long as those tensors live.
        detail: kind-specific facts that JSON can hold.
    """

    kind: Kind
    operation: str
    module: nn.Module | None
    site: Site | None
    calls: int
    activation: Activation
    behind: frozenset[int]
    detail: dict[str, Any]


@dataclass(frozen=True)
class Unreached:
    """Why a parameter gets no gradient; ``operation`` and ``site`` where a call is to blame."""

    reason: UnreachedReason
    operation: str | None = None
    site: Site | None = None


class Examined(Protocol):
    """What ``why_unreached`` asks an examination."""

    @property
    def looked(self) -> bool:
        """Whether it recorded at all, to the end."""

    def seen(self) -> list[Seen]:
        """What was recorded."""

    def used(self, leaf: Tensor) -> bool:
        """Whether a leaf tensor was handed to any operation."""


def why_unreached(
    parameter: Tensor,
    examination: Examined,
    views: Iterable[GraphView] = (),
    *,
    module_ran: bool | None = None,
    grad_disabled: bool | None = None,
) -> Unreached | None:
    """Why the losses of a step do not depend on a parameter.

    Args:
        parameter: the parameter.
        examination: it was active during the step's forwards.
        views: the graphs of the step's backward calls.
        module_ran: whether the module that owns it was called; None if not known.
        grad_disabled: whether it was called under disabled grad only; None if not known.

    Returns:
        None where a view reaches it through an operation that has a derivative, or where a part
        of a graph was hidden and nothing else explains it. A cut explains it where the parameter
        stands behind it; of several the one with the fewest parameters behind it, which is the
        nearest, and one that only reads a number for a log comes last.
    """
    if not parameter.requires_grad:
        return Unreached("frozen")
    views = list(views)
    identity = id(parameter)
    if any(identity in view.leaves and identity not in view.blocked for view in views):
        return None
    seen = [s for s in examination.seen() if identity in s.behind]
    cuts = sorted(
        (s for s in seen if s.kind == "cut"),
        key=lambda s: (s.operation in READING, len(s.behind)),
    )
    if cuts:
        return Unreached(reason_of(cuts[0].operation), cuts[0].operation, cuts[0].site)
    disabled = next((s for s in seen if s.kind == "no-grad"), None)
    if disabled is not None:
        return Unreached("no-grad", "no_grad", disabled.site)
    if grad_disabled:
        return Unreached("no-grad", "no_grad")
    if any(view.hidden_by for view in views):
        return None
    if any(identity in view.blocked for view in views):
        return Unreached("other")
    # an examination that stayed inactive has seen no use of anything
    out_of_sight = module_ran is None and not examination.looked
    if examination.used(parameter) or module_ran or out_of_sight:
        return Unreached("other")
    return Unreached("unused")
