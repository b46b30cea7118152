"""The ordered events of the training loop, grouped into steps; reads no tensor but the loss."""

from __future__ import annotations

import math
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class OpenStep:
    """What has happened since the end of the step before."""

    number: int
    events: list[dict[str, Any]] = field(default_factory=list)
    losses: list[tuple[str | None, float]] = field(default_factory=list)
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
    """

    def __init__(self, first_step: int) -> None:
        self.step = first_step
        self.optimizers = OptimizerIds()
        self.open = OpenStep(first_step)
        self._started = self._last = time.perf_counter()
        self._site_counts: dict[str | None, int] = {}

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
        self, loss: float | None, place: tuple[str, int] | None, detail: Any = None
    ) -> str | None:
        """A backward call at ``place`` with the scalar ``loss`` (None if it was no scalar)."""
        site = self.event("backward", value=loss, site=place, detail=detail)
        if loss is not None:
            self.open.losses.append((site, loss))
            self._site_counts[site] = self._site_counts.get(site, 0) + 1
        return site

    def clip(self, limit: float, total: float, optimizers: list[int]) -> None:
        """A ``clip_grad_norm_`` with this limit found this total norm."""
        self.event("clip", value=total, limit=limit, detail={"optimizers": optimizers})
        self.open.clip_limit, self.open.norm_before_clip = limit, total
        # torch's own formula: coefficient = max_norm / (total + 1e-6), at most 1
        self.open.clipped_to = total * min(limit / (total + 1e-6), 1.0) if total else total

    def backwards(self) -> int:
        """Backward calls in the open step."""
        return sum(event["kind"] == "backward" for event in self.open.events)

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
        now = time.perf_counter()
        done, length = self.open, now - self._last
        site, loss = self._main_loss(done.losses)
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

    def _main_loss(self, losses: list[tuple[str | None, float]]) -> tuple[str | None, float | None]:
        if not losses:
            return None, None
        # several losses in one step (a GAN, two heads): the call site met most often so far
        main = max((site for site, _ in losses), key=lambda site: self._site_counts[site])
        values = [loss for site, loss in losses if site == main]
        return main, math.fsum(values) / len(values)


def learning_rates(optimizer: Any) -> list[float]:
    """Learning rate of each parameter group; NaN for a group without one."""
    rates = []
    for group in getattr(optimizer, "param_groups", []):
        rate = group.get("lr", math.nan)
        rates.append(float(rate.item() if isinstance(rate, torch.Tensor) else rate))
    return rates
