"""Trying fixes on objects in memory: a module that was checked, a loop that was watched."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradscope import config
from gradscope.advise.advisor import options
from gradscope.advise.arm import Start
from gradscope.advise.fix import Treatment
from gradscope.advise.trials import Limits, Options, Tell, Trials, untried
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.running.loading import Workload
from gradscope.running.seeds import seed_all
from gradscope.session.trying import STRIDE, silent, start_of, tried

Loss = Callable[[nn.Module, Any], Tensor]

_OF_THE_LOOP = ("GS501", "GS506", "GS502")
"""Faults of a loop that a trial does not run: it has the user's model, loss and optimizer only."""


@dataclass(frozen=True)
class Before:
    """The state of a workload before its first step, where training has moved it since."""

    optimizer: Any
    schedulers: tuple[Any, ...]

    @classmethod
    def of(cls, workload: Workload) -> Before:
        """Copies of what ``left_as_it_was`` does not put back."""
        return cls(
            copy.deepcopy(workload.optimizer.state_dict()),
            tuple(copy.deepcopy(s.state_dict()) for s in workload.schedulers),
        )

    def restore(self, workload: Workload) -> None:
        """Put them back."""
        workload.optimizer.load_state_dict(self.optimizer)
        for scheduler, state in zip(workload.schedulers, self.schedulers, strict=True):
            scheduler.load_state_dict(state)


def try_workload(
    diagnosis: Diagnosis,
    workload: Workload,
    before: Before,
    settings: config.Settings,
    tell: Tell = silent,
) -> Diagnosis:
    """Try the fixes of a module that was checked and is again as it was before.

    All seeds begin with the module's own weights; the order of its batches and all that is drawn
    differ from seed to seed.
    """
    prepare = functools.partial(_workload_start, workload, before, settings.seed)
    return tried(diagnosis, prepare, settings, tell)


def _workload_start(workload: Workload, before: Before, seed: int, number: int) -> Start:
    before.restore(workload)
    seed_all(seed + STRIDE * number)
    if number == 0:
        return start_of(workload)
    skipping = _later(workload.batches, number)
    moved = Workload(**{**vars(workload), "batches": skipping})
    return start_of(moved)


def _later(batches: Callable[[], Iterator[Any]], number: int) -> Callable[[], Iterator[Any]]:
    """The same batches from a later one on: another order where they come in a fixed one."""

    def iterate() -> Iterator[Any]:
        return itertools.islice(batches(), 7 * number, None)

    return iterate


def try_watched(
    diagnosis: Diagnosis,
    model: nn.Module,
    optimizer: Any,
    loss: Loss | None,
    batches: Iterable[Any] | Callable[[], Iterable[Any]] | None,
    kept: Sequence[Any],
    limits: Limits,
    tell: Tell = silent,
) -> Diagnosis:
    """Try the fixes of a watched loop with its model, its optimizer and ``loss(model, batch)``.

    Each seed begins with weights that are drawn anew, each tensor with the mean and spread with
    which it began in the recording; clipping is repeated with the recorded limit.

    Args:
        diagnosis: of the recording so far.
        model: as it is now; it is not touched.
        optimizer: likewise.
        loss: gives a scalar; None tries nothing.
        batches: what to train on; None for ``kept``.
        kept: batches that were kept while watching.
        limits: see ``Trials``.
        tell: see ``Trials``.
    """
    if loss is None:
        return untried(diagnosis, "pass loss=, a function of the model and a batch")
    chosen = list(kept) if batches is None else list(_some(batches))
    if not chosen:
        return untried(diagnosis, "no batches were kept: pass batches=")
    if optimizer is None:
        return untried(diagnosis, "no optimizer was seen, so that the loop cannot be repeated")
    found = _without_loop_faults(options(diagnosis), diagnosis)
    prepare = functools.partial(_watched_start, model, optimizer, loss, chosen, diagnosis.recording)
    return Trials(diagnosis, found, prepare, limits, tell).run()


def _some(batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> Iterator[Any]:
    several = batches() if callable(batches) else batches
    return itertools.islice(several, 256)


def _without_loop_faults(found: Options, diagnosis: Diagnosis) -> Options:
    none = Treatment(untried="this fault is in the loop, which a trial of a watched loop replaces")
    return tuple(
        tuple(
            tuple(
                option if finding.code not in _OF_THE_LOOP else type(option)(option.fix, none)
                for option in variants
            )
            for variants in fixes
        )
        for fixes, finding in zip(found, diagnosis.findings, strict=True)
    )


def _watched_start(
    model: nn.Module, optimizer: Any, loss: Loss, batches: list[Any], recording: Any, number: int
) -> Start:
    seed_all(STRIDE * number)
    _begin_anew(model, recording)
    optimizer.state.clear()
    rates = next((r for r in recording.steps["lr"] if isinstance(r, list)), [])
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        if math.isfinite(rate):
            group["lr"] = rate
    limits = recording.steps["clip_limit"].dropna()
    limit = float(limits.median()) if len(limits) > len(recording.steps) / 2 else None
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(number)).tolist()
    ordered = [batches[i] for i in order] if number else batches

    def run(steps: int) -> None:
        model.train()
        for batch in itertools.islice(itertools.cycle(ordered), steps):
            optimizer.zero_grad()
            loss(model, batch).backward()
            if limit is not None:
                held = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(held, limit)
            optimizer.step()

    return Start(run, roots=(model,))


@torch.no_grad()
def _begin_anew(model: nn.Module, recording: Any) -> None:
    """Draw each parameter with the mean and spread that it had at the start."""
    frame = recording.parameters
    known = {
        str(path): (float(mean), float(spread))
        for path, mean, spread in zip(
            frame["path"], frame["initial_mean"], frame["initial_std"], strict=True
        )
        if mean == mean and spread == spread  # not recorded: NaN
    }
    for name, parameter in model.named_parameters():
        if name in known and parameter.is_floating_point():
            mean, spread = known[name]
            if spread > 0:
                parameter.normal_(mean, spread)
            else:
                parameter.fill_(mean)
        parameter.grad = None
    for module in model.modules():
        forget = getattr(module, "reset_running_stats", None)
        if callable(forget):
            forget()
