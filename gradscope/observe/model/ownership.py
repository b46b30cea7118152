"""Which backward calls and optimizer steps belong to the watched models.

A process may train other models beside them: on the same lines, in other threads, of the same size.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gradscope.observe.autograd.graph import reaches
from gradscope.observe.clock import OptimizerIds
from gradscope.observe.inventory import Inventory


def _nobody() -> None:
    return None


class Ownership:
    """Tells the watched training's calls from others.

    Attributes:
        forward_seen: a forward of a watched root has begun in the open step.
        any_forward: the same of the whole run.
        foreign_steps: optimizer steps that were none of the watched training.
    """

    def __init__(
        self, inventory: Inventory, optimizers: OptimizerIds, adopt: Callable[[Any], None]
    ) -> None:
        """Make one; ``adopt`` learns the parameters of an optimizer."""
        self.forward_seen = self.any_forward = False
        self.foreign_steps = 0
        self._inventory = inventory
        self._optimizers = optimizers
        self._adopt = adopt
        self._stepping: Callable[[], Any] = _nobody
        """The optimizer whose step has begun last, held weakly."""
        self._threads: set[int] = set()
        """Threads that have run a forward of a watched root."""
        self._places: dict[tuple[str, int] | None, bool] = {}
        self._foreign_leaves: set[int] = set()
        """``id`` of leaves that losses of other models depend on."""

    def forward(self) -> None:
        """The outermost forward of a watched root begins, with gradients enabled."""
        self.forward_seen = self.any_forward = True
        self._threads.add(threading.get_ident())

    def here(self) -> bool:
        """Whether a call of this thread may be one of the watched training."""
        return not self._threads or threading.get_ident() in self._threads

    def of_backward(
        self, losses: Sequence[Tensor], place: tuple[str, int] | None, *, open_group: bool
    ) -> bool:
        """Whether losses depend on a watched parameter.

        A forward of a root came before as a rule, but a critic's loss may be made of a detached
        output, and the parts of a root may be called without it: the graph tells. Where it is
        hidden, what happened before tells, and what the same line was before.

        Args:
            losses: what backward is called on.
            place: the calling line.
            open_group: other backward calls of the open step were theirs.
        """
        leaves: list[int] = []

        def wanted(leaf: Tensor) -> bool:
            leaves.append(id(leaf))
            return self._inventory.parameters.get(leaf) is not None

        known = reaches(losses, wanted)
        if known is False and self._inventory.sharded:
            known = None  # its graph ends at the gathered parameters
        if known is False:
            self._foreign_leaves.update(leaves)
        ran = (self.forward_seen or open_group) and self.here()
        if known is None and ran and place in self._places:
            return self._places[place]
        # a part of the graph may be hidden, and the hooks of compiled code are silent
        ours = (ran or not self.any_forward) if known is None else known
        self._places[place] = ours
        return ours

    def of_step(self, optimizer: Any, backwards: int) -> bool:
        """Whether a step of this optimizer is one of theirs; learns its parameters on the way.

        One that holds no watched parameter, but as many numbers, and steps right after their
        forward and backward in their thread, holds copies of them (a sharded or mixed-precision
        wrapper's), unless a loss of another model was differentiated for what it holds.

        Args:
            optimizer: the optimizer that is about to step.
            backwards: backward calls of theirs in the open step.
        """
        self._stepping = _nobody
        copies = (
            not self._inventory.has_optimizer
            and self.forward_seen
            and threading.get_ident() in self._threads
            and self._inventory.equals_in_size(optimizer)
            and not self._trains_another(optimizer)
        )
        if (
            not self._inventory.holds(optimizer)
            and not (copies and backwards)
            and not self._inventory.rediscover(optimizer, self._optimizers.ordinal(optimizer))
        ):
            return False
        self._adopt(optimizer)
        self._stepping = weakref.ref(optimizer)
        return True

    def of_step_end(self, optimizer: Any, backwards: int) -> bool:
        """The same at the step's end: what its begin has told, where that was seen."""
        stepping, self._stepping = self._stepping(), _nobody
        return stepping is optimizer or self.of_step(optimizer, backwards)

    def _trains_another(self, optimizer: Any) -> bool:
        held = (p for group in optimizer.param_groups for p in group["params"])
        return any(id(parameter) in self._foreign_leaves for parameter in held)
