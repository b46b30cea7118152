"""When to look: which steps are recorded, and how often, within a cost that was promised."""

from __future__ import annotations

from dataclasses import dataclass

FULL_STEPS = 5
"""The first steps are recorded in full and do not count towards the budget."""
MODULES_PER_PARAMETERS = 10
"""Modules are looked at on every tenth of the steps on which parameters are."""
BURST_STEPS = 20
"""Steps recorded in full after an alarm."""
BURST_SHARE = 50
"""A burst may take at most one step in this many."""
GRACE_SECONDS = 0.1
"""Spent at the start whatever share of the time it is: nobody notices a tenth of a second, and a
training of a few hundred short steps would else be judged by a handful of them."""
GRACE_EVERY = 5
"""Meanwhile parameters are looked at on every fifth step, modules on every tenth."""
SAMPLING_AT_LEAST = 1 / 4
"""Part of the budget that sampling keeps where following the loop takes up all the rest: steps of
a few milliseconds cost more to follow than was promised, and looking away would not make up."""
_INTERVALS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
_SMOOTHING = 0.1
MODULES_OF_RANKS = 5
"""With several ranks modules are looked at on every fifth of the steps on which parameters are."""
_BY_NUMBER = ((100, 5), (1_000, 10), (10_000, 20), (float("inf"), 50))
"""With several ranks: up to which step parameters are looked at on every how manyeth."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is recorded on one step."""

    parameters: bool
    modules: bool


class Cadence:
    """Decides for each step before it begins.

    With ``every=k`` it depends on the step's number alone: parameters every k-th step, modules
    every 10·k-th (``activations_every`` overrides). With a budget the interval follows the cost
    measured so far, so that gradscope's share of the time stays below it. With several ranks it
    depends on the number alone again, by a table of intervals that grow: what ranks have looked at
    on different steps could not be put together.

    The grace at the start is a debt: until the share of all the time is within the budget again,
    sampling takes half of what it might.
    """

    def __init__(
        self,
        every: int | None,
        activations_every: int | None,
        budget: float | None,
        first: int,
        *,
        ranks: int = 1,
    ) -> None:
        self._ranks = ranks
        self._every = every
        self._modules_every = activations_every
        self._budget = budget if every is None else None
        self._first = first
        self._interval = self._modules_interval = 1
        self._next_parameters = self._next_modules = first
        self._step_time = self._idle_cost = 0.0
        self._cost = {False: 0.0, True: 0.0}
        self._burst_until = first
        self._burst_steps = self._told = 0
        self._grace = GRACE_SECONDS
        self._debt = 0.0

    def plan(self, step: int) -> Plan:
        """What to record on ``step``; call once for each step, in order."""
        number = step - self._first
        if step < self._burst_until:
            self._burst_steps += 1
            return Plan(True, True)
        if self._every is not None:
            modules = self._modules_every or self._every * MODULES_PER_PARAMETERS
            return Plan(number % self._every == 0, number % modules == 0)
        if self._budget is None:
            modules = self._modules_every or 1
            return Plan(True, number % modules == 0)
        if self._ranks > 1:
            interval = next(k for until, k in _BY_NUMBER if number < until)
            modules = self._modules_every or interval * MODULES_OF_RANKS
            full = number < FULL_STEPS
            return Plan(full or number % interval == 0, full or number % modules == 0)
        if number < FULL_STEPS:
            self._next_parameters = self._next_modules = step + 1
            return Plan(True, True)
        modules = step >= self._next_modules
        if self._modules_every is not None:
            modules = number % self._modules_every == 0
        parameters = modules or step >= self._next_parameters
        if modules:
            self._next_modules = step + self._modules_interval
        if parameters:
            self._next_parameters = step + self._interval
        if self._grace > 0 and self._modules_every is None:
            modules = modules or number % (2 * GRACE_EVERY) == 0
            parameters = parameters or modules or number % GRACE_EVERY == 0
        return Plan(parameters, modules)

    def spent(self, plan: Plan, own: float, total: float) -> None:
        """Learn from a step that took ``total`` seconds, ``own`` of them gradscope's."""
        self._told += 1
        if self._told <= FULL_STEPS:
            # the first steps warm up and are examined: the last of them is like those to come
            self._step_time, self._cost[True] = total - own, own
        elif plan.parameters:
            self._step_time = _smooth(self._step_time, total - own)
            self._cost[plan.modules] = _smooth(self._cost[plan.modules], own)
        else:
            self._step_time = _smooth(self._step_time, total - own)
            self._idle_cost = _smooth(self._idle_cost, own)
        sampling = max(own - self._idle_cost, 0.0) if plan.parameters else 0.0
        if self._budget is None or not self._step_time:
            return
        # half of what the budget leaves after the wire goes to parameters, half to modules
        whole = self._budget * self._step_time
        left = max(whole - self._idle_cost, whole * SAMPLING_AT_LEAST)
        if self._told > FULL_STEPS:
            self._debt = max(self._debt + sampling * (self._grace > 0) - left / 2, 0.0)
            self._grace -= sampling
        if self._debt:
            left /= 2
        self._interval = _interval(max(self._cost[False] - self._idle_cost, 0.0) / (left / 2))
        self._modules_interval = max(
            _interval(max(self._cost[True] - self._idle_cost, 0.0) / (left / 2)), self._interval
        )
        if not self._cost[False]:
            # until a step without modules was measured, one with them stands for its cost
            self._interval = self._modules_interval

    def burst(self, step: int) -> bool:
        """Record the next steps in full after an alarm; False if bursts have had their share."""
        seen = step - self._first + 1
        if step < self._burst_until or self._burst_steps * BURST_SHARE > seen:
            return False
        self._burst_until = step + 1 + BURST_STEPS
        return True


def _smooth(old: float, new: float) -> float:
    return new if not old else old + _SMOOTHING * (new - old)


def _interval(wanted: float) -> int:
    return next((k for k in _INTERVALS if k >= wanted), int(wanted) + 1)
