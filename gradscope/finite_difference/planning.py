"""How much is done for each module, so that the whole stays within its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from gradscope.finite_difference.checking import Effort
from gradscope.finite_difference.options import Options
from gradscope.finite_difference.preparation import Prepared
from gradscope.observe.capture import Call
from gradscope.observe.experiment.duplicate import below, own_parameters

GRAPH = 3.0
"""Time of one evaluation with its backward, in evaluations."""
PAIRS = 4
"""Evaluations of one comparison that is settled by its first two steps."""
BASE = 3e-4
"""Seconds that an evaluation costs beside the module itself: copies, hooks, sums."""
PER_ELEMENT = 1e-8
"""Seconds for each element of a leaf that an evaluation moves: a sum and a copy."""


@dataclass(frozen=True)
class Plan:
    """Which calls are checked and with what effort.

    Attributes:
        calls: in order.
        limit: a sentence about what is left out, or "".
        joint: the effort where all tensors of a module move together.
    """

    calls: list[Call]
    efforts: dict[int, Effort] = field(default_factory=dict)
    limit: str = ""
    joint: Effort = field(default_factory=lambda: Effort(separate=False))

    def effort(self, call: Call, *, late: bool) -> Effort:
        """The effort for one call; the least once the time is over."""
        if late:
            return Effort(directions=1, separate=False, closer=200)
        return self.efforts.get(id(call), self.joint)


def plan(calls: Sequence[Call], ready: Prepared, options: Options) -> Plan:
    """Choose the greatest effort whose expected time fits ``options.seconds``."""
    chosen = [c for c in calls if not options.only_suspects or _custom(c.module, ready)]
    expected = {id(c): _evaluation(c) for c in chosen}
    leaves = {id(c): _leaves(c, ready) for c in chosen}
    full = options.directions

    def closely(call: Call) -> int:
        """Evaluations for one closer look: a share of the time, and enough to say something."""
        return int(min(600, max(80, 0.1 * options.seconds / expected[id(call)])))

    def cost(call: Call, effort: Effort) -> float:
        groups = leaves[id(call)] if effort.separate else 1
        comparisons = groups + effort.directions - 1
        return expected[id(call)] * (comparisons * PAIRS + effort.directions * GRAPH + 1)

    levels = (
        ("", lambda c: Effort(full, True, closely(c))),
        ("", lambda c: Effort(full, not _is_container(c), closely(c))),
        (
            "all tensors of a module were moved together",
            lambda c: Effort(full, False, closely(c)),
        ),
        (
            "one direction for each module, all of its tensors together",
            lambda c: Effort(1, False, min(200, closely(c))),
        ),
    )
    efforts: dict[int, Effort] = {}
    limit = ""
    for number, (limit, choose) in enumerate(levels):  # noqa: B007
        efforts = {id(c): choose(c) for c in chosen}
        total = sum(cost(c, efforts[id(c)]) for c in chosen)
        # the first level may take a third of the time: what is right should not cost all of it
        if total <= options.seconds * (0.33 if number == 0 else 0.8):
            break
    else:
        limit = f"{limit}; all of it is expected to take longer than {options.seconds:g} s"
    said = f"time budget of {options.seconds:g} s: {limit}" if limit else ""
    return Plan(chosen, efforts, said, Effort(1 if "one direction" in limit else full, False))


def _custom(module: nn.Module, ready: Prepared) -> bool:
    """Whether a module's own backward is the user's work: a custom Function, or a hook."""
    hooks = bool(module._backward_hooks or module._backward_pre_hooks)
    return module in ready.with_functions or hooks or has_parameter_hooks(module)


def has_parameter_hooks(module: nn.Module) -> bool:
    """Whether a hook changes the gradient of a parameter of this very module."""
    return any(getattr(p, "_backward_hooks", None) for _, p in own_parameters(module))


def suspect(module: nn.Module) -> bool:
    """Whether a module's own code is the user's, or a hook hangs on it."""
    hooks = (
        module._backward_hooks or module._backward_pre_hooks or module._forward_hooks
        or module._forward_pre_hooks
    )  # fmt: skip
    return bool(hooks) or not type(module).__module__.startswith("torch.")


def _is_container(call: Call) -> bool:
    return bool(call.children)


def _evaluation(call: Call) -> float:
    moved = sum(p.numel() for m in below(call.module) for _, p in own_parameters(m))
    return call.seconds + BASE + PER_ELEMENT * moved


def _leaves(call: Call, ready: Prepared) -> int:
    called = {c.module for c in ready.calls}
    own = sum(
        1
        for m in below(call.module)
        if m is call.module or m not in called
        for _ in own_parameters(m)
    )
    return len(call.wanted) + own + bool(call.children)
