"""Keeps what a search for the origin of a NaN or Inf needs, and searches when an alarm asks.

Kept between a forward and the update: the arguments of each root call (sharing their memory), the
random states, a copy of the buffers, and the gradient that came back to the output. All of it is
dropped when the next step begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.observe.callsite import OWN_LOOP, shown
from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.nonfinite import (
    Origin,
    Snapshot,
    bad_parameters,
    first_bad_input,
    origin_in_graph,
    replay,
    replay_step,
    take_snapshot,
)
from gradscope.observe.snapshot import RandomState, tensors_in

Record = dict[str, Any]

CALLS = 4
"""Root calls kept in one step: of an accumulated step the first ones."""

KEPT = 2**22
"""Elements of an output whose gradient is kept until the update. That of a language model's logits
would be the largest tensor of the whole step; without it a gradient of ones stands in."""


class _Call:
    """One kept call of a root."""

    def __init__(self, root: nn.Module, snapshot: Snapshot) -> None:
        self.root = root
        self.snapshot = snapshot
        self.gradients: list[Tensor | None] = []

    def watch_output(self, output: Any) -> None:
        """Keep the gradient that comes back to each tensor of the output."""
        heads = [t for t in tensors_in(output) if t.requires_grad and not t.is_leaf]
        if sum(head.numel() for head in heads) > KEPT:
            return
        self.gradients = [None] * len(heads)
        for index, head in enumerate(heads):
            head.register_hook(self._keeper(index))

    def _keeper(self, index: int) -> Callable[[Tensor], None]:
        gradients = self.gradients

        def keep(gradient: Tensor) -> None:
            gradients[index] = gradient.detach()

        return keep


class OriginSearch:
    """Finds the first operation whose output is not finite while its inputs are."""

    def __init__(self, inventory: Inventory, guard: Guard, *, enabled: bool) -> None:
        self._inventory = inventory
        self._guard = guard
        self._enabled = enabled
        self._calls: list[_Call] = []
        self._step_fn: Callable[[], Any] | None = None
        self._random: RandomState | None = None

    def begin(self) -> None:
        """A step begins: forget the one before."""
        self._calls = []
        self._step_fn = self._random = None

    def keep(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A root is about to run."""
        if self._enabled and len(self._calls) < CALLS:
            self._calls.append(_Call(root, take_snapshot(root, args, kwargs, torch_only=True)))

    def keep_output(self, root: nn.Module, output: Any) -> None:
        """It has run."""
        if self._calls and self._calls[-1].root is root:
            self._calls[-1].watch_output(output)

    def keep_step(self, step_fn: Callable[[], Any]) -> None:
        """``step_fn`` runs forward, loss and backward of this step once more when called."""
        if self._enabled:
            self._step_fn, self._random = step_fn, RandomState.now()

    # ------------------------------------------------------------------ searching

    def of_loss(self, tensors: Sequence[Tensor], site: str | None) -> Record | None:
        """Origin of a non-finite loss, at the entry of backward."""
        if not self._enabled:
            return None
        with self._paused():
            found = self._before_any_operation() or self._step_again()
            if found is None:
                found = self._forward_again()
            if found is None:
                found = origin_in_graph(tensors, batch=self._batch())
        return self._record(found, site)

    def of_gradient(self) -> Record | None:
        """Origin of a non-finite gradient under a finite loss, before the update."""
        if not self._enabled:
            return None
        with self._paused():
            found = self._before_any_operation() or self._step_again()
            for call in self._calls if found is None else []:
                again = replay(call.root, call.snapshot, output_gradients=call.gradients)
                if found is None or again.phase is not None:
                    found = again
        return self._record(found, None)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Without our own hooks: a replay is no step of the training."""
        self._guard.open = False
        try:
            yield
        finally:
            self._guard.open = True

    def _before_any_operation(self) -> Origin | None:
        for call in self._calls:
            kept = call.snapshot
            bad = first_bad_input(kept.args, kept.kwargs, batch=kept.batch_size(), site=kept.site)
            if bad is not None:
                return bad
        for call in self._calls:
            for parameter in bad_parameters(call.root.parameters()):
                reason = "a parameter was not finite before the step began"
                return Origin(None, "parameter", None, None, (), reason, parameter)
        return None

    def _step_again(self) -> Origin | None:
        if self._step_fn is None or self._random is None:
            return None
        present = RandomState.now()
        self._random.restore()
        try:
            root = self._calls[0].root if self._calls else None
            found = replay_step(self._step_fn, root=root, batch=self._batch())
        except Exception:  # the user's code, in a situation that it was not written for
            return None
        finally:
            present.restore()
        return found if found.phase is not None else None

    def _forward_again(self) -> Origin | None:
        for call in self._calls:
            found = replay(call.root, call.snapshot)
            if found.phase is not None and found.phase != "backward":
                return found
        return None

    def _batch(self) -> int | None:
        return self._calls[0].snapshot.batch_size() if self._calls else None

    def _record(self, found: Origin | None, site: str | None) -> Record | None:
        if found is None:
            return None
        module = None if found.module is None else self._inventory.modules.get(found.module)
        if module is None and found.parameter is not None:
            identity = self._inventory.parameters.get(found.parameter)
            place = None if identity is None else self._inventory.place_of(identity)
            module = None if place is None else place.owner
        file, line = (shown(found.site.file), found.site.line) if found.site else _split(site)
        return {
            "operation": found.operation,
            "phase": found.phase,
            "module": -1 if module is None else module,
            "file": file,
            "line": line,
            "samples": list(found.samples),
            "reason": found.reason,
        }


def _split(site: str | None) -> tuple[str | None, int | None]:
    """File and line of a call site; none for gradscope's own loop."""
    if site is None or site == OWN_LOOP[0]:
        return None, None
    file, _, line = site.rpartition(":")
    return (file, int(line)) if line.isdigit() else (site, None)
