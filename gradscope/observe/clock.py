"""The ordered events of the training loop, grouped into steps; reads no tensor but the loss."""

from __future__ import annotations

import math
import time
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from gradscope.observe.callsite import site_text, user_site


class OptimizerIds:
    """Ordinals of optimizers by identity, held weakly: ``id`` alone is re-used after deletion."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._next = 0

    def ordinal(self, optimizer: Any) -> int:
        """The ordinal of ``optimizer``, a new one if it was not met before."""
        entry = self._known.get(id(optimizer))
        if entry is not None and entry[0]() is optimizer:
            return entry[1]
        self._known[id(optimizer)] = (weakref.ref(optimizer), self._next)
        self._next += 1
        return self._next - 1

    def living(self) -> list[Any]:
        """The optimizers that still live, in order."""
        return [thing for ref, _ in self._known.values() if (thing := ref()) is not None]


class Loss(NamedTuple):
    """A scalar that was differentiated: its call site, and what the loop had divided it by."""

    site: str | None
    value: float
    divisor: float | None = None


@dataclass
class OpenStep:
    """What has happened since the end of the step before."""

    number: int
    events: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    asked: list[Loss] = field(default_factory=list)
    loss_scale: float | None = None
    clip_limit: float | None = None
    norm_before_clip: float | None = None
    clipped_to: float | None = None


class Clock:
    """Collects events and closes steps.

    Attributes:
        step: number of the step that is open.
        open: what has happened in it.
        optimizers: ordinals of the optimizers met.
        backward_seen: whether a backward call was ever seen.
    """

    def __init__(self, first_step: int) -> None:
        self.step = first_step
        self.optimizers = OptimizerIds()
        self.open = OpenStep(first_step)
        self._started = self._last = time.perf_counter()
        self._site_counts: dict[str | None, int] = {}
        self._divided: dict[str | None, float] = {}
        """Call sites whose losses are divided by the number of micro-batches."""
        self.backward_seen = False

    def event(
        self,
        kind: str,
        *,
        optimizer: int | None = None,
        value: float | None = None,
        limit: float | None = None,
        detail: Any = None,
        site: tuple[str, int] | None = None,
    ) -> str | None:
        """Append an event at ``site`` (the user's current line); returns it as ``file:line``."""
        at = site_text(site or user_site())
        self.open.events.append(
            {
                "step": self.step,
                "order": len(self.open.events),
                "kind": kind,
                "optimizer": optimizer,
                "site": at,
                "value": value,
                "limit": limit,
                "detail": detail,
            }
        )
        return at

    def backward(
        self,
        loss: float | None,
        place: tuple[str, int] | None,
        detail: Any = None,
        divisor: float | None = None,
    ) -> str | None:
        """A backward call at ``place`` with the scalar ``loss`` (None if it was no scalar).

        Args:
            loss: the scalar.
            place: file and line of the call.
            detail: for the event.
            divisor: what the loop had divided the loss by, see ``divided``.
        """
        self.backward_seen = True
        site = self.event("backward", value=loss, site=place, detail=detail)
        self._count(self.open.losses, site, loss, divisor)
        return site

    def asked(
        self, loss: float | None, place: tuple[str, int] | None, divisor: float | None
    ) -> str | None:
        """A call of ``autograd.grad`` for parameters; the step's loss if no backward is called."""
        site = self.event("autograd-grad", value=loss, site=place, detail={"parameters": True})
        self._count(self.open.asked, site, loss, divisor)
        return site

    def _count(
        self, losses: list[Loss], site: str | None, loss: float | None, divisor: float | None
    ) -> None:
        if loss is not None:
            losses.append(Loss(site, loss, divisor))
            self._site_counts[site] = self._site_counts.get(site, 0) + 1

    def clip(self, limit: float, total: float, optimizers: list[int]) -> None:
        """A ``clip_grad_norm_`` with this limit found this total norm."""
        self.event("clip", value=total, limit=limit, detail={"optimizers": optimizers})
        self.open.clip_limit, self.open.norm_before_clip = limit, total
        # torch's own formula: coefficient = max_norm / (total + 1e-6), at most 1
        self.open.clipped_to = total * min(limit / (total + 1e-6), 1.0) if total else total

    def backwards(self) -> int:
        """Backward calls in the open step; if there are none, ``autograd.grad`` for parameters."""
        asked = sum(
            event["kind"] == "autograd-grad" and bool(event["detail"]) for event in self.open.events
        )
        return sum(event["kind"] == "backward" for event in self.open.events) or asked

    @property
    def backward_in_step(self) -> bool:
        """Whether a backward call was seen in the open step."""
        return any(event["kind"] == "backward" for event in self.open.events)

    def close(
        self,
        *,
        optimizer: int,
        lr: list[float],
        norm: float | None,
        skipped: bool,
        parameters_sampled: bool,
        modules_sampled: bool,
        own_seconds: float,
    ) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
        """End the open step: its record, its events, and its length in seconds."""
        # a virtual machine that was moved may have a clock that went back: no time is negative
        now = max(time.perf_counter(), self._last)
        done, length = self.open, now - self._last
        site, loss = self._main_loss(done.losses or done.asked)
        record = {
            "step": done.number,
            "time": now - self._started,
            "optimizer": optimizer,
            "loss": loss,
            "site": site,
            "backwards": self.backwards(),
            "lr": lr,
            "loss_scale": done.loss_scale,
            "skipped": skipped,
            "clip_limit": done.clip_limit,
            "norm_before_clip": done.norm_before_clip,
            "norm": norm if norm is not None else done.clipped_to,
            "parameters_sampled": parameters_sampled,
            "modules_sampled": modules_sampled,
            "own_seconds": own_seconds,
            "step_seconds": length,
        }
        self._last = now
        self.step += 1
        self.open = OpenStep(self.step)
        return record, done.events, length

    def _main_loss(self, losses: list[Loss]) -> tuple[str | None, float | None]:
        if not losses:
            return None, None
        # several losses in one step (a GAN, two heads): the call site met most often so far
        main = max((loss.site for loss in losses), key=lambda site: self._site_counts[site])
        mine = [loss for loss in losses if loss.site == main]
        mean = math.fsum(loss.value for loss in mine) / len(mine)
        return main, mean * self._divisor(main, mine)

    def _divisor(self, site: str | None, losses: list[Loss]) -> float:
        """By what the loop divides the losses of a call site to average over micro-batches.

        That is known once there were as many calls in a step as each loss was divided by; the last
        step of an epoch may have fewer.
        """
        divisor = losses[0].divisor
        if divisor is None or any(loss.divisor != divisor for loss in losses):
            return 1.0
        if abs(len(losses) - divisor) < 1e-6 * divisor:
            self._divided[site] = divisor
        return divisor if self._divided.get(site) == divisor else 1.0


def learning_rates(optimizer: Any) -> list[float]:
    """Learning rate of each parameter group; NaN for a group without one."""
    rates = []
    for group in getattr(optimizer, "param_groups", []):
        rate = group.get("lr", math.nan)
        rates.append(float(rate.item() if isinstance(rate, torch.Tensor) else rate))
    return rates
