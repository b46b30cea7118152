"""A real training's facts, taped once and written again for as many steps as are wanted.

What is written is what gradscope wrote of a network of the wanted size, with other step numbers:
the writer, the retention and the reader have the real work, and nothing has to be trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradscope.observe.observer import Observer
from gradscope.recording.writer import Writer

TAPED = 6
"""Steps that are trained; those before the last two are examined and hold more than others."""
MODULE_TABLES = ("activations", "units", "losses", "examined", "features")
PARAMETER_TABLES = ("gradients", "updates", "sketches")


@dataclass
class Tape:
    """Calls of a writer.

    Attributes:
        once: those without a step, and those of the examined steps.
        steps: for each taped step, its calls as (table, rows or records, blob).
    """

    once: list[Callable[[Writer], None]] = field(default_factory=list)
    steps: dict[int, list[tuple[str, Any, bytes | None]]] = field(default_factory=dict)

    def play(
        self, writer: Writer, steps: range, *, every: int, modules_every: int,
        told: Callable[[int], None] = lambda step: None,
    ) -> None:  # fmt: skip
        """Write ``steps`` steps, parameters on every ``every``-th, modules on ``modules_every``."""
        if steps.start == 0:
            for call in self.once:
                call(writer)
            writer.commit()
        source = max(self.steps)
        for step in steps:
            for table, content, blob in self.steps[source - step % 2]:
                if table in PARAMETER_TABLES and step % every:
                    continue
                if table in MODULE_TABLES and step % modules_every:
                    continue
                if blob is None:
                    writer.records(table, [{**record, "step": step} for record in content])
                else:
                    content["step"] = step
                    writer.rows(table, content, blob)
            writer.commit()
            told(step)


class _Taping(Writer):
    """A writer that also remembers what it was given."""

    tape: Tape

    def rows(self, table: str, rows: Any, blob: bytes = b"") -> None:
        if len(rows):
            taken = self.tape.steps.setdefault(int(rows["step"][0]), [])
            taken.append((table, rows.copy(), blob))
        super().rows(table, rows, blob)

    def records(self, table: str, items: Sequence[Mapping[str, Any]]) -> None:
        kept = [dict(item) for item in items]
        if kept and table in ("steps", "events", "losses"):
            self.tape.steps.setdefault(int(kept[0]["step"]), []).append((table, kept, None))
        elif kept:
            self.tape.once.append(lambda writer: writer.records(table, kept))
        super().records(table, items)

    def set(self, key: str, value: Any) -> None:
        if key not in ("pid", "rank", "started"):
            self.tape.once.append(lambda writer: writer.set(key, value))
        super().set(key, value)


def tape(parameters: int) -> Tape:
    """The tape of a network of so many parameter tensors (an even number), recorded in full."""
    width = 32
    layers: list[nn.Module] = []
    for _ in range(parameters // 2):
        layers += [nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    data, target = torch.randn(16, width), torch.randint(width, (16,))
    with tempfile.TemporaryDirectory() as folder:
        writer = _Taping.__new__(_Taping)
        writer.tape = Tape()
        writer.__init__(Path(folder, "run"))
        observer = Observer([model], labels=["model"], writer=writer, optimizer=optimizer,
                            budget=None)  # fmt: skip
        observer.attach()
        for _ in range(TAPED):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data), target).backward()
            optimizer.step()
        observer.detach()
        writer.close()
    return writer.tape
