"""One training of a trial, as it runs in a child process, and what the parent reads of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gradscope.advise.verdict import Run
from gradscope.observe.autograd.gradient_sizes import GradientSizes
from gradscope.observe.experiment.intervention import Intervention
from gradscope.observe.experiment.steering import Steering, Step
from gradscope.running.child import Ended, Send, finish

ELEMENTS = 5_000_000
"""Parameters of a larger model are not compared with what they were."""
LOST = 5
"""Steps in a row without a finite loss after which a training is not gone on with."""


@dataclass(frozen=True)
class Start:
    """A training that is ready for its first step; every arm of a seed is forked from it.

    Attributes:
        run: trains for so many steps; it may be ended from within a step.
        roots: the models, where they exist already.
        kinds: class names of the models; () where any model may be meant.
        by_hand: whether the update is written by hand: then a backward call is a step.
        quality: measures the trained model, for a benchmark; None where nothing does.
    """

    run: Callable[[int], None]
    roots: tuple[nn.Module, ...] = ()
    kinds: tuple[str, ...] = ()
    by_hand: bool = False
    quality: Callable[[], float] | None = None


@dataclass(frozen=True)
class Arm:
    """A training with some changes; none for the control.

    Attributes:
        interventions: the changes.
        steps: after which it ends.
        quality: whether ``Start.quality`` is to be measured at the end.
    """

    interventions: tuple[Intervention, ...]
    steps: int
    quality: bool = False

    def __call__(self, start: Start, send: Send) -> None:
        """Train, sending each step's loss; see ``running.child``."""
        count = lost = 0
        watched: dict[str, tuple[Tensor, Tensor]] = {}
        profile: GradientSizes | None = None

        def told(step: Step) -> None:
            nonlocal count, lost, profile
            count += 1
            send((step.loss, step.error))
            lost = 0 if math.isfinite(step.loss) else lost + 1
            if count == self.steps - 1:
                profile = GradientSizes(start.roots or steering.started)
            if count >= self.steps or (lost >= LOST and not self.quality):
                end()

        def end() -> NoReturn:
            quality = start.quality() if self.quality and start.quality is not None else None
            send(
                {
                    "applied": all(change.applied for change in self.interventions),
                    "several": len(steering.optimizers) > 1,
                    "sizes": tuple(profile.sizes.items()) if profile is not None else (),
                    "still": _still(watched),
                    "quality": quality,
                }
            )
            finish(send)

        steering = Steering(
            self.interventions,
            told,
            roots=start.roots,
            is_root=lambda module: type(module).__name__ in start.kinds or not start.kinds,
            by_hand=start.by_hand,
        )
        steering.install()
        watched = _named(start.roots, steering.interventions)
        start.run(self.steps)
        end()


def _named(
    roots: Sequence[nn.Module], interventions: Sequence[Intervention]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Parameters that might never move, each with a copy; none of a model that is too large."""
    found: dict[str, Tensor] = {name: p for root in roots for name, p in root.named_parameters()}
    extra = [t for change in interventions for t in change.added()]
    held = {id(p) for p in found.values()}
    found |= {f"+{i}": t for i, t in enumerate(extra) if id(t) not in held}
    if sum(p.numel() for p in found.values()) > ELEMENTS:
        return {}
    return {name: (p, p.detach().clone()) for name, p in found.items()}


def _still(watched: dict[str, tuple[Tensor, Tensor]]) -> tuple[str, ...]:
    """Those that are bit for bit what they were."""
    return tuple(n for n, (now, before) in watched.items() if torch.equal(now.detach(), before))


def read(ended: Ended) -> tuple[Run, float | None]:
    """The run of an arm from what it sent, and its measured quality."""
    steps = [m for m in ended.messages if isinstance(m, tuple)]
    last: dict[str, Any] = next((m for m in ended.messages if isinstance(m, dict)), {})
    run = Run(
        losses=tuple(loss for loss, _ in steps),
        errors=tuple(error for _, error in steps),
        crashed="" if ended.kind == "done" else ended.reason,
        applied=bool(last.get("applied", True)),
        several=bool(last.get("several", False)),
        sizes=tuple(last.get("sizes", ())),
        still=frozenset(last.get("still", ())),
    )
    return run, last.get("quality")
