"""The check of a whole model, from the innermost modules outward.

Each module is judged alone, with what it was really given. A module that contains others is judged
for what it adds itself: those inside that were found wrong are replaced by linear stand-ins with an
exact backward. So each fault has one name, the deepest.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from gradscope.finite_difference.checking import check
from gradscope.finite_difference.extras import Extras
from gradscope.finite_difference.options import CALLS, Options
from gradscope.finite_difference.outcome import Outcome, Verdict, overall
from gradscope.finite_difference.planning import Plan, plan
from gradscope.finite_difference.preparation import (
    CannotRunError,
    Drive,
    Prepared,
    prepare,
)
from gradscope.finite_difference.units import LOSS, loss_unit, unit_of
from gradscope.observe.capture import Call
from gradscope.observe.experiment.duplicate import below
from gradscope.observe.experiment.frozen import Frozen
from gradscope.observe.experiment.stand_in import ModuleReplacement
from gradscope.observe.naming import unwrap


@dataclass
class ModuleResult:
    """What was found out about one module.

    Attributes:
        name: its qualified name.
        outcomes: one for each tensor.
    """

    name: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The one verdict that stands for all tensors."""
        return overall(o.verdict for o in self.outcomes)


@dataclass(frozen=True)
class Checked:
    """The result of a check of a whole model.

    Attributes:
        modules: by name, the innermost first.
        notes: sentences about how it was done.
        limits: sentences about what was left out.
        reason: why nothing could be checked, or "".
        seconds: how long it took.
    """

    modules: dict[str, ModuleResult]
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    reason: str = ""
    seconds: float = 0.0


def check_model(
    root: nn.Module,
    drive: Drive,
    options: Options,
    *,
    things: Iterable[Any] = (),
    with_loss: bool = False,
) -> Checked:
    """Check every backward in a model.

    Args:
        root: the user's model; it stays as it is.
        drive: runs it once.
        options: see ``Options``.
        things: objects beside the model that may have a state.
        with_loss: what ``drive`` gives is a loss of the model's output, to be checked as well.

    Raises:
        CannotRunError: the model does not run.
    """
    began = time.monotonic()
    # what the user's code warns of is told by its own runs; here it runs hundreds of times
    with warnings.catch_warnings(), _random_states_kept():
        warnings.simplefilter("ignore")
        # compiled code and wrappers of parallel training stand in the way of hooks
        root = unwrap(root)
        try:
            ready = prepare(root, drive, things, options.seed, CALLS)
            walk = _Walk(ready, root, drive, options, began, with_loss=with_loss)
            walk.run()
        except CannotRunError:
            raise
        except Exception as error:
            # the model runs: that it cannot be copied, or run twice, is no error of the caller's
            text = (str(error).strip().splitlines() or [""])[0]
            reason = f"it could not be checked: {type(error).__name__}: {text}"
            return Checked({}, reason=reason, seconds=time.monotonic() - began)
    seconds = time.monotonic() - began
    return Checked(walk.results, tuple(ready.notes), tuple(walk.limits), walk.reason, seconds)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    states = Frozen()
    try:
        yield
    finally:
        states.restore()


class _Walk:
    """The walk over all calls."""

    def __init__(
        self, ready: Prepared, root: nn.Module, drive: Drive, options: Options, began: float, *,
        with_loss: bool,
    ) -> None:  # fmt: skip
        self.results: dict[str, ModuleResult] = {}
        self.limits: list[str] = []
        self.reason = ""
        self._ready, self._drive = ready, drive
        self._extras = Extras(root, ready, options)
        self._options, self._began, self._with_loss = options, began, with_loss
        self._replaced: dict[nn.Module, None] = {}
        """Modules that are wrong, by design or otherwise, and stand-ins take their place."""
        self._doubtful: dict[nn.Module, None] = {}
        """Modules that could not be judged alone: what is around them may decide."""

    def run(self) -> None:
        """Judge all calls, the innermost first."""
        calls = [c for c in self._ready.calls if c.grad_enabled or c.recomputed]
        # what runs again in the backward pass was recorded last, but lies inside
        calls.sort(key=lambda call: sum(1 for _ in below(call.module)))
        planned = plan(calls, self._ready, self._options)
        if planned.limit:
            self.limits.append(planned.limit)
        done = 0
        for call in planned.calls:
            if self._options.progress is not None:
                self._options.progress(done, len(planned.calls), call.name)
            done += 1
            self._judge(call, planned)
        if self._with_loss and not self._late():
            self._loss(planned)
        if self._options.progress is not None:
            self._options.progress(done, done, "")
        self._close()

    def _late(self) -> bool:
        return time.monotonic() - self._began > self._options.seconds

    # ------------------------------------------------------------------ one call

    def _judge(self, call: Call, planned: Plan) -> None:
        inside = [m for m in below(call.module) if m is not call.module]
        replaced = [m for m in inside if m in self._replaced]
        doubtful = [m for m in inside if m in self._doubtful and m not in replaced]
        outcomes = self._checked(call, replaced, planned)
        if doubtful:
            if overall(o.verdict for o in outcomes) == "right" and outcomes:
                self._cleared(doubtful, call.name)
            else:
                without = self._checked(call, [*replaced, *doubtful], planned)
                if overall(o.verdict for o in without) == "right" or not without:
                    # what is wrong here is what they do
                    for module in doubtful:
                        self._replaced[module] = self._doubtful.pop(module)
                    outcomes = without
        self._note(call, outcomes)

    def _checked(self, call: Call, replaced: Sequence[nn.Module], planned: Plan) -> list[Outcome]:
        with contextlib.ExitStack() as stack:
            told: tuple[ModuleReplacement, ...] = ()
            if replaced:
                told = (stack.enter_context(ModuleReplacement(replaced)),)
            unit = unit_of(call, self._ready, replaced, told)
            if not unit.leaves:
                return []
            effort = planned.effort(call, late=self._late())
            outcomes = check(unit, self._options.seed, effort)
            if overall(o.verdict for o in outcomes) == "right":
                outcomes += self._extras.outcomes(unit, call, effort)
            return outcomes

    def _note(self, call: Call, outcomes: list[Outcome]) -> None:
        result = self.results.setdefault(call.name, ModuleResult(call.name))
        known = {o.tensor: i for i, o in enumerate(result.outcomes)}
        for outcome in outcomes:
            position = known.get(outcome.tensor)
            if position is None:
                result.outcomes.append(outcome)
            elif overall([outcome.verdict, result.outcomes[position].verdict]) == outcome.verdict:
                result.outcomes[position] = outcome
        verdict = overall(o.verdict for o in outcomes)
        blocked = verdict == "wrong" and not call.output_wanted and call.parent is not None
        if verdict == "inconclusive" or blocked:
            self._doubtful[call.module] = None
        elif verdict in ("wrong", "by-design"):
            self._replaced[call.module] = None
            self._doubtful.pop(call.module, None)

    def _cleared(self, modules: Sequence[nn.Module], inside: str) -> None:
        """What could not be judged alone is right where it is used."""
        where = f"`{inside}`" if inside else "the model"
        for module in modules:
            del self._doubtful[module]
            result = self.results[self._ready.names[module]]
            result.outcomes = [
                o
                if o.verdict == "right"
                else replace(
                    o, verdict="right", kind=None,
                    reason=f"Inside {where} it is right; alone it is not to be judged: {o.reason}",
                )
                for o in result.outcomes
            ]  # fmt: skip

    # ------------------------------------------------------------------ the end

    def _loss(self, planned: Plan) -> None:
        replaced = [*self._replaced, *self._doubtful]
        with contextlib.ExitStack() as stack:
            told = (stack.enter_context(ModuleReplacement(replaced)),) if replaced else ()
            unit = loss_unit(self._ready, self._drive, replaced, told)
            if unit is None:
                return
            outcomes = check(unit, self._options.seed, planned.joint)
        self.results[LOSS] = ModuleResult(
            LOSS, [replace(o, tensor="the model's parameters") for o in outcomes[:1]]
            if overall(o.verdict for o in outcomes) == "right" else outcomes,
        )  # fmt: skip

    def _close(self) -> None:
        if any(result.outcomes for result in self.results.values()):
            return
        if not self._ready.calls:
            self.reason = "no call of the model was seen"
        else:
            self.reason = (
                "there is nothing to check: no parameter requires grad, no input is a floating "
                "tensor, or nothing that is given back depends on them by a graph"
            )
