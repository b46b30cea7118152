"""Keeps what a search for the origin of a NaN or Inf needs, and searches when an alarm asks.

Kept between a forward and the update: the arguments of each root call (sharing their memory), the
random states, a copy of the small buffers, the gradient that came back to the output, and the
gradients that passed the loss code. All of it is dropped when the next step begins; it is at most
16 MiB of gradients at outputs, 16 MiB in the loss code and 4 MiB of buffers a call, beside the
arguments, which are not copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gradscope.observe import private
from gradscope.observe.birth.finite import Batch
from gradscope.observe.birth.kept_call import CALLS, KEPT, KeptCall
from gradscope.observe.birth.loss_code import LossCode
from gradscope.observe.birth.loss_part import LossPart
from gradscope.observe.birth.operands import sentence
from gradscope.observe.birth.replayable import obstacle
from gradscope.observe.birth.snapshot import Layout, RandomState
from gradscope.observe.callsite import OWN_LOOP, shown
from gradscope.observe.guard import Guard
from gradscope.observe.inventory import Inventory
from gradscope.observe.nonfinite import (
    Origin,
    bad_parameters,
    first_bad_input,
    origin_in_graph,
    replay,
    replay_step,
    take_snapshot,
)
from gradscope.observe.reading.containers import tensors_in

Record = dict[str, Any]
LOSS_CODE = "the loss code: no forward of a module was running"


class OriginSearch:
    """Finds the first operation whose output is not finite while its inputs are."""

    def __init__(self, inventory: Inventory, guard: Guard, *, enabled: bool) -> None:
        self._inventory = inventory
        self._guard = guard
        self._enabled = enabled
        self._layout = Layout()
        self._calls: deque[KeptCall] = deque(maxlen=CALLS)
        self._heads: set[int] = set()
        self._loss_part = LossPart()
        self._loss_code = LossCode(ours=lambda: guard.inside)
        self._site: str | None = None
        self._held = 0
        self._draws = False
        """Whether a forward was seen to draw from Python's or numpy's generator."""
        self._step_fn: Callable[[], Any] | None = None
        self._random: RandomState | None = None

    # ------------------------------------------------------------------ keeping

    def begin(self, *, sampled: bool = True) -> None:
        """A step begins: forget the one before; on a sampled one look at the model's tree anew."""
        self._site = self._step_fn = self._random = None
        if sampled:
            self._layout.forget()
        self._calls.clear()
        self._heads = set()
        self._loss_part.begin()
        self._loss_code.clear()
        self._held = 0

    @property
    def crowded(self) -> bool:
        """Whether the next call will push out the oldest one."""
        return len(self._calls) == CALLS

    def keep(
        self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, sampled: bool
    ) -> None:
        """A root is about to run; on a sampled step it is seen whether it draws random numbers."""
        if not self._enabled:
            return
        self._loss_code.leave()
        snapshot = take_snapshot(
            root, args, kwargs, torch_only=not (sampled or self._draws), layout=self._layout
        )
        if self.crowded:
            self._held -= self._calls.popleft().kept
        self._calls.append(KeptCall(root, snapshot))

    def keep_output(self, root: nn.Module, output: Any) -> None:
        """It has run."""
        if not self._calls or self._calls[-1].root is not root:
            return
        call = self._calls[-1]
        if not self._draws and call.snapshot.random.python is not None:
            self._draws = not call.snapshot.random.equals(RandomState.now())
        heads = [t for t in tensors_in(output) if t.requires_grad and not t.is_leaf]
        self._heads.update([private.node_sequence_nr(t.grad_fn) for t in heads])  # type: ignore[arg-type]
        size = sum([head.numel() for head in heads])
        # the gradient of a language model's logits may be the largest tensor of the whole step;
        # without it a gradient of ones stands in
        if self._held + size <= KEPT:
            self._held += size
            call.watch(heads, size)
        if self._step_fn is None:
            self._loss_code.begin()

    def keep_step(self, step_fn: Callable[[], Any]) -> None:
        """``step_fn`` runs forward, loss and backward of this step once more when called."""
        if self._enabled:
            self._step_fn, self._random = step_fn, RandomState.now()

    def loss_ends(self) -> None:
        """What is called now is no loss code any more."""
        self._loss_code.leave()

    def backward_begin(self, losses: Sequence[Tensor], site: str | None) -> None:
        """Backward is about to run on ``losses``."""
        self._site = site
        if self._enabled and self._step_fn is None and not private.compile_in_use():
            self._loss_part.hook(losses, self._heads)

    def backward_end(self) -> None:
        """It has run."""
        self._loss_part.end()

    # ------------------------------------------------------------------ searching

    def of_loss(self, tensors: Sequence[Tensor], site: str | None) -> Record | None:
        """Origin of a non-finite loss, at the entry of backward."""
        if not self._enabled:
            return None
        with self._guard.paused():
            why = ""
            found = self._before_any_operation() or self._step_again()
            if found is None:
                again, why = self._calls_again(forward_only=True)
                found = again or self._loss_code.origin(self._batch())
            if found is None:
                # the graph still stands: what the replay did not reproduce is read from it
                found = origin_in_graph(tensors, batch=self._batch(), inside=self._heads)
                found = None if found is None else found.because(why)
        return self.record(found, site)

    def of_gradient(self) -> Record | None:
        """Origin of a non-finite gradient under a finite loss, before the update."""
        if not self._enabled:
            return None
        with self._guard.paused():
            found = self._before_any_operation() or self._step_again()
            if found is None:
                found, why = self._calls_again(forward_only=False)
                if found is None or found.phase == "backward":
                    # on its way back the gradient passes the loss first
                    found = self._in_loss_code() or found
                found = found or Origin.unknown(why or "no forward of a watched model was kept")
        return self.record(found, self._site)

    def of_step(
        self, step_fn: Callable[[], Any], optimizers: Sequence[Any]
    ) -> tuple[Origin, Record | None]:
        """Origin in a step that the user gives; everything is afterwards as before.

        Raises:
            Exception: what ``step_fn`` raises.
        """
        roots = self._inventory.roots
        with self._guard.paused():
            found = replay_step(
                step_fn, optimizers=optimizers, modules=roots, batch=self._batch(), site=None
            )
        return found, self.record(found, None)

    def _in_loss_code(self) -> Origin | None:
        hidden = self._loss_code.origin(self._batch())
        passed = self._loss_part.origin(self._batch())
        if passed is None:
            return None
        if hidden is not None and hidden.phase == "forward" and hidden.operation:
            # an infinity that the loss does not show and that the backward met
            return hidden
        return self._loss_code.completed(*passed)

    def _before_any_operation(self) -> Origin | None:
        for call in self._calls:
            kept = call.snapshot
            bad = first_bad_input(kept.args, kept.kwargs, batch=kept.batch(), site=kept.site)
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

    def _calls_again(self, *, forward_only: bool) -> tuple[Origin | None, str]:
        """The first origin that a replay of the kept calls finds; else why none was found."""
        why = ""
        for call in self._calls:
            if not forward_only and call.silent():
                continue
            barred = obstacle(call.root)
            if barred is not None:
                why = f"the forward cannot be replayed: {barred}"
                continue
            found = replay(
                call.root,
                call.snapshot,
                output_gradients=call.gradients,
                forward_only=forward_only,
            )
            if found.phase is not None:
                compiled = private.compile_in_use()
                return found.because("replayed eagerly" if compiled else ""), ""
            why = why or found.reason
        return None, why

    def _batch(self) -> Batch | None:
        return self._calls[0].snapshot.batch() if self._calls else None

    # ------------------------------------------------------------------ telling

    def record(self, found: Origin | None, site: str | None) -> Record | None:
        """An origin as a recording holds it; ``site``: the line of the backward call."""
        if found is None:
            return None
        module = None if found.module is None else self._inventory.modules.get(found.module)
        if module is None and found.parameter is not None:
            identity = self._inventory.parameters.get(found.parameter)
            place = None if identity is None else self._inventory.place_of(identity)
            module = None if place is None else place.owner
        file, line = (shown(found.site.file), found.site.line) if found.site else _split(site)
        reasons = [found.reason]
        if values := sentence(list(found.operands)):
            reasons.append(values)
        if found.phase in ("forward", "backward") and found.outside:
            which = "" if found.site else "; the line is that of the backward call"
            reasons.append(f"it is in {LOSS_CODE}{which}")
        return {
            "operation": found.operation,
            "phase": found.phase,
            "module": -1 if module is None else module,
            "file": file,
            "line": line,
            "samples": list(found.samples),
            "reason": "; ".join(reasons),
            "operands": list(found.operands),
            "exact": found.phase is not None and found.site is not None,
        }


def _split(site: str | None) -> tuple[str | None, int | None]:
    """File and line of a call site; none for gradscope's own loop."""
    if site is None or site == OWN_LOOP[0]:
        return None, None
    file, _, line = site.rpartition(":")
    return (file, int(line)) if line.isdigit() else (site, None)
