"""Runs one case: some healthy steps, then the flagged batch, then two more steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.nonfinite.hosts import WIDTH, Net
from benchmarks.nonfinite.plan import BATCH, Case

HEALTHY = 3
"""Steps before the flagged batch."""
AFTER = 1


class Training:
    """The models, the optimizer and the loop of one case.

    Attributes:
        models: what is watched.
        losses: values of the losses so far.
        finite: whether losses and gradients of the flagged step were finite, as plain torch says.
    """

    def __init__(self, case: Case, *, sick: bool) -> None:
        torch.manual_seed(case.seed)
        self.case, self.sick = case, sick
        self.dtype = getattr(torch, case.dtype)
        saves = case.loop == "checkpoint"
        apply = case.operation.apply
        self.net = Net(case.host, case.place, apply, saves=saves).to(self.dtype)
        self.models: list[nn.Module] = [self.net]
        if case.loop == "two-models":
            self.models.append(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()).to(self.dtype))
        decay = 0.01 if case.loop == "weight-decay" else 0.0
        parameters = [p for model in self.models for p in model.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, weight_decay=decay)
        self.drawn = torch.Generator().manual_seed(case.seed)
        self.losses: list[float] = []
        self.finite = True

    def run(self, around: Callable[[int], contextlib.AbstractContextManager[Any]]) -> None:
        """All steps; ``around`` is entered for each with its number."""
        for step in range(HEALTHY + 1 + AFTER):
            with around(step):
                self._step(step)

    def _step(self, step: int) -> None:
        flagged = step == HEALTHY
        parts = {"accumulation": 3, "many-batches": 7}.get(self.case.loop, 1)
        chosen = min(parts - 1, 1) if flagged else -1
        self.optimizer.zero_grad()

        def closure() -> Tensor:
            loss = torch.zeros(())
            for part in range(parts):
                loss = self._loss(flagged=part == chosen) / parts
                loss.backward()
                if flagged:
                    self._judge(loss)
            return loss

        if self.case.loop == "closure":
            self.losses.append(float(self.optimizer.step(closure).detach()))
            return
        self.losses.append(float(closure().detach()))
        if self.case.loop == "clip":
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()

    def _loss(self, *, flagged: bool) -> Tensor:
        case = self.case
        x = torch.randn(BATCH, WIDTH, generator=self.drawn).to(self.dtype)
        y = torch.randn(BATCH, WIDTH, generator=self.drawn).to(self.dtype)
        flag = torch.full((BATCH, 1), case.operation.good, dtype=self.dtype)
        if flagged and self.sick:
            flag[list(case.samples)] = case.operation.bad
        if case.loop == "two-models":
            x = self.models[1](x)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.loop == "autocast"):
            out = self.net(x, flag)
            if case.place == "loss":
                out = case.operation.apply(out, flag)
            return (out - y).abs().mean()

    def _judge(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        values = [loss, *gradients]
        self.finite = self.finite and all(bool(torch.isfinite(v).all()) for v in values)


@contextlib.contextmanager
def quiet(_step: int) -> Iterator[None]:
    """A step that nobody watches."""
    yield
