"""From a case to a draft, and from a draft to a finished training."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.accuracy import families, faults
from benchmarks.accuracy.cases import NO_FAULT, Batch, Case, DoesNotFitError, Draft
from benchmarks.accuracy.data import load
from benchmarks.accuracy.loops import LOOPS, OPTIMIZERS, Running, Target, autocast
from benchmarks.accuracy.objectives import functional_criterion_for, measured


@dataclass(frozen=True)
class Ready:
    """A training whose optimizers are built, one step before its first step."""

    draft: Draft
    running: Running

    @property
    def models(self) -> dict[str, nn.Module]:
        """The networks to watch, by the name of their variable."""
        return {"model": self.draft.model, **self.draft.others}

    def run(self) -> None:
        """Train."""
        LOOPS[self.draft.loop](self.running)

    def share(self) -> float:
        """Share of the trivial loss removed, judged by the task itself."""
        return self.draft.measure(self.draft)


def draft_of(case: Case) -> Draft:
    """The draft of a case with its fault put in.

    Raises:
        DoesNotFitError: the fault has no place in this case.
    """
    seed_all(case.seed)
    family = families.BY_NAME[case.family]
    data = load(case.data)
    draft = family.build(case.variant, data)
    draft.optimizer, draft.loop = case.optimizer, case.loop
    draft.steps = draft.steps * case.steps // 100
    draft.lr *= family.rates[case.optimizer]
    if case.loop == "functional" and draft.measure is measured:
        draft.criterion = functional_criterion_for(data)
    if case.fault != NO_FAULT:
        fault = faults.BY_NAME[case.fault]
        for allowed, value in (
            (fault.loops, case.loop),
            (fault.optimizers, case.optimizer),
            (fault.families, case.family),
        ):
            if allowed and value not in allowed:
                raise DoesNotFitError(f"{case.fault} is not for {value}")
        fault.apply(draft, case.level)
    if draft.phases and (draft.factor != 1.0 or draft.autocast or draft.penalty is not None):
        raise DoesNotFitError("the losses of several networks are their own")
    if (draft.mistake or draft.scaler) and case.loop not in faults.LOOPS_OF.get(
        draft.mistake or "scaler", ()
    ):
        raise DoesNotFitError(f"{case.loop} cannot make the mistake {draft.mistake!r}")
    return draft


def ready(draft: Draft, seed: int) -> Ready:
    """Build optimizers, schedulers and batches; the draft's pre-training is done here."""
    if draft.before is not None:
        draft.before(draft)
    networks = {"model": draft.model, **draft.others}
    built: dict[str, Target] = {}
    targets = []
    for trains, loss in _losses(draft):
        # a network that is trained twice a step keeps its optimizer
        if trains not in built:
            built[trains] = _target(draft, networks[trains], loss)
        targets.append(replace(built[trains], loss=loss))
    if draft.late is not None:
        draft.late(draft.model)
    scaler = None
    if draft.scaler:
        scaler = torch.amp.GradScaler("cpu", init_scale=draft.scaler)
    running = Running(
        targets, draft.batches(seed), draft.steps, draft.lr, draft.mistake, draft.repeats,
        draft.clip, draft.schedule, scaler,
    )  # fmt: skip
    return Ready(draft, running)


def _target(draft: Draft, network: nn.Module, loss: Callable[[Batch], Tensor]) -> Target:
    target = Target(loss, draft.parameters(network))
    if draft.loop != "manual":
        target.optimizer = OPTIMIZERS[draft.optimizer](target.parameters, lr=draft.lr)
        if draft.schedule is not None:
            target.scheduler = torch.optim.lr_scheduler.LambdaLR(target.optimizer, draft.schedule)
    return target


def trained(case: Case) -> float:
    """Train a case that nobody watches; the share of the trivial loss that it removes."""
    training = ready(draft_of(case), case.seed)
    training.run()
    return training.share()


def seed_all(seed: int) -> None:
    """Seed torch, numpy and random."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  networks may use the global state


def _losses(draft: Draft) -> list[tuple[str, Callable[[Batch], Tensor]]]:
    if draft.phases:
        return [(phase.trains, phase.loss) for phase in draft.phases]

    def loss_of(batch: Batch) -> Tensor:
        with autocast(draft.autocast):
            loss = draft.criterion(draft.forward(draft.model, batch[0]), batch)
        if draft.penalty is not None:
            loss = loss + draft.penalty(draft.model, batch)
        return loss if draft.factor == 1.0 else loss * draft.factor

    return [("model", loss_of)]
