"""The ways in which a training loop is written, and the mistakes that are made in one.

Each loop is written out as a person would write it, because where and in which order it calls
``zero_grad``, ``backward``, ``clip_grad_norm_`` and ``step`` is what a tool sees of it.

Mistakes: ``no-zero`` (gradients are never cleared), ``zero-late`` (cleared between backward and
step), ``step-first`` (the step before the backward pass, with the gradients of the batch before),
``clip-late`` (clipped after the step), ``clip-early`` (clipped before the backward pass),
``repeated-step`` (several steps for one backward pass).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.accuracy.cases import Batch

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass
class Target:
    """One loss, the parameters it trains and their optimizer (None: updated by hand)."""

    loss: Callable[[Batch], Tensor]
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer | None = None
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None


@dataclass
class Running:
    """A training that is ready to be run; see ``Draft`` for the fields."""

    targets: Sequence[Target]
    batches: Iterator[Batch]
    steps: int
    lr: float
    mistake: str = ""
    repeats: int = 1
    clip: float = 0.0
    schedule: Callable[[int], float] | None = None
    scaler: torch.amp.GradScaler | None = None
    told: Callable[[int, float], None] = lambda step, loss: None
    losses: list[float] = field(default_factory=list)

    def tell(self, loss: Tensor) -> None:
        """Called by a loop at the end of each step."""
        self.losses.append(float(loss.detach()))
        self.told(len(self.losses) - 1, self.losses[-1])


def plain(run: Running) -> None:
    """The loop of the tutorials; the only one in which all mistakes can be made."""
    for _ in range(run.steps):
        batch = next(run.batches)
        for target in run.targets:
            optimizer = target.optimizer
            assert optimizer is not None
            if run.mistake == "step-first":
                optimizer.step()
            if run.mistake not in ("no-zero", "zero-late"):
                optimizer.zero_grad()
            if run.mistake == "clip-early":
                clip_grad_norm_(target.parameters, run.clip)
            loss = target.loss(batch)
            if run.scaler is not None:
                run.scaler.scale(loss).backward()
                if run.clip:
                    run.scaler.unscale_(optimizer)
                    clip_grad_norm_(target.parameters, run.clip)
                run.scaler.step(optimizer)
                run.scaler.update()
                continue
            loss.backward()
            if run.mistake == "zero-late":
                optimizer.zero_grad()
            if run.clip and run.mistake not in ("clip-early", "clip-late"):
                clip_grad_norm_(target.parameters, run.clip)
            if run.mistake != "step-first":
                optimizer.step()
            for _ in range(run.repeats - 1):
                optimizer.step()
            if run.mistake == "clip-late":
                clip_grad_norm_(target.parameters, run.clip)
            if target.scheduler is not None:
                target.scheduler.step()
        run.tell(loss)


def accumulation(run: Running) -> None:
    """Two micro-batches for each step."""
    for _ in range(run.steps):
        inputs, targets = next(run.batches)
        for target in run.targets:
            optimizer = target.optimizer
            assert optimizer is not None
            total = torch.zeros(())
            for half in zip(inputs.chunk(2), targets.chunk(2), strict=True):
                loss = target.loss(half) / 2
                loss.backward()
                total += loss.detach()
            if run.mistake == "zero-late":
                optimizer.zero_grad()
            if run.clip:
                clip_grad_norm_(target.parameters, run.clip)
            optimizer.step()
            if target.scheduler is not None:
                target.scheduler.step()
            if run.mistake != "no-zero":
                optimizer.zero_grad()
        run.tell(total)


def closure(run: Running) -> None:
    """The optimizer calls a function that computes loss and gradients."""
    for _ in range(run.steps):
        batch = next(run.batches)
        for target in run.targets:
            optimizer = target.optimizer
            assert optimizer is not None

            def again(
                target: Target = target,
                optimizer: torch.optim.Optimizer = optimizer,
                batch: Batch = batch,
            ) -> Tensor:
                if run.mistake != "no-zero":
                    optimizer.zero_grad(set_to_none=False)
                loss = target.loss(batch)
                loss.backward()
                if run.clip:
                    clip_grad_norm_(target.parameters, run.clip)
                return loss

            loss = optimizer.step(again)
            if target.scheduler is not None:
                target.scheduler.step()
        run.tell(loss)


def functional(run: Running) -> None:
    """Functions in place of modules and methods: the loss, the clearing, the norm."""
    for _ in range(run.steps):
        batch = next(run.batches)
        for target in run.targets:
            assert target.optimizer is not None
            loss = target.loss(batch)
            torch.autograd.backward(loss)
            if run.mistake == "zero-late":
                for parameter in target.parameters:
                    parameter.grad = None
            if run.clip:
                clip_grad_norm_(target.parameters, run.clip)
            for _ in range(run.repeats):
                target.optimizer.step()
            if target.scheduler is not None:
                target.scheduler.step()
            if run.mistake != "no-zero":
                for parameter in target.parameters:
                    parameter.grad = None
        run.tell(loss)


def manual(run: Running) -> None:
    """Gradient descent written by hand."""
    for step in range(run.steps):
        batch = next(run.batches)
        lr = run.lr * (run.schedule(step) if run.schedule is not None else 1.0)
        for target in run.targets:
            if run.mistake != "no-zero":
                for parameter in target.parameters:
                    parameter.grad = None
            loss = target.loss(batch)
            loss.backward()
            if run.clip:
                clip_grad_norm_(target.parameters, run.clip)
            with torch.no_grad():
                for parameter in target.parameters:
                    if parameter.grad is not None:
                        parameter -= lr * parameter.grad
        run.tell(loss)


class Trainer:
    """A small framework, as companies write them."""

    def __init__(self, run: Running) -> None:
        self.run = run

    def fit(self) -> None:
        """Train for the number of steps."""
        for _ in range(self.run.steps):
            batch = next(self.run.batches)
            for target in self.run.targets:
                loss = self.training_step(target, batch)
                self.optimizer_step(target)
            self.run.tell(loss)

    def training_step(self, target: Target, batch: Batch) -> Tensor:
        """Loss and gradients of one batch."""
        loss = target.loss(batch)
        loss.backward()
        return loss

    def optimizer_step(self, target: Target) -> None:
        """Clip, step, schedule, clear."""
        assert target.optimizer is not None
        mistake = self.run.mistake
        if mistake == "zero-late":
            target.optimizer.zero_grad()
        if self.run.clip and mistake != "clip-late":
            clip_grad_norm_(target.parameters, self.run.clip)
        for _ in range(self.run.repeats):
            target.optimizer.step()
        if self.run.clip and mistake == "clip-late":
            clip_grad_norm_(target.parameters, self.run.clip)
        if target.scheduler is not None:
            target.scheduler.step()
        if mistake != "no-zero":
            target.optimizer.zero_grad()


def trainer(run: Running) -> None:
    """A trainer class with a method for each part."""
    Trainer(run).fit()


LOOPS: dict[str, Callable[[Running], None]] = {
    "plain": plain,
    "accumulation": accumulation,
    "closure": closure,
    "functional": functional,
    "manual": manual,
    "trainer": trainer,
}

TUNING_LOOPS = ("plain", "accumulation")
"""The only loops of the tuning part."""

REPORTING_LOOPS = ("functional", "closure", "manual", "trainer")
"""Loops of the reporting part that the tuning part never sees; it also has those of tuning."""


def autocast(dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The autocast around forward and loss, or nothing."""
    return torch.autocast("cpu", dtype) if dtype is not None else nullcontext()
