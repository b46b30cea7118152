"""What ``run`` watches and how; needs no torch, which a script may never import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradscope.recording.facts import SCHEMA_VERSION
from gradscope.recording.writer import Writer
from gradscope.session.launching import launched_as


@dataclass(frozen=True)
class Plan:
    """What is to be watched and how.

    Attributes:
        target: the script, as shown to the user.
        folder: the run folder, absolute and claimed.
        every, activations_every, budget: see ``Observer``.
        max_steps: number of optimizer steps after which ``ScriptWatch`` tells; None: never.
        settings: the run's fact ``settings``.
        nonfinite: see ``Observer``.
    """

    target: str
    folder: Path
    every: int | None = None
    activations_every: int | None = None
    budget: float | None = 0.10
    max_steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    nonfinite: str = "auto"


def write_empty(plan: Plan, limits: list[str], **facts: Any) -> None:
    """A recording without a step, which says why there is none.

    Args:
        plan: see ``Plan``.
        limits: why.
        facts: further facts about the run.
    """
    writer = Writer(plan.folder, rank=launched_as()[0], joins=True)
    told = {
        "schema_version": SCHEMA_VERSION, "command": "run", "target": plan.target,
        "settings": plan.settings, "limits": limits, **facts,
    }  # fmt: skip
    for key, value in told.items():
        writer.set(key, value)
    writer.close()
