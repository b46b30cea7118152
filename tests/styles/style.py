"""One style of training: run plainly and under watch, compared to the last bit and in a number.

The number is one that a tool that does not know the style gets wrong; its oracle is computed by the
plain run, which gradscope does not see.
"""

import contextlib
import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.reader import Recording
from gradscope.recording.writer import Writer

PAGE = Path(__file__).parents[2] / "docs" / "styles.md"
Watching = Callable[..., AbstractContextManager[Any]]


@dataclass
class Ran:
    """What a training leaves: its models, its losses, and what it found out about itself."""

    models: tuple[nn.Module, ...]
    losses: list[float]
    truth: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """One number three times: recorded, true, and what a naive tool says (a word: no number)."""

    what: str
    recorded: float
    truth: float
    naive: float | str


class Both:
    """Runs a training plainly and watched.

    Attributes:
        shown: the numbers that were compared.
        observer: that of the watched run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.name = name
        self.shown: list[Shown] = []
        self.observer: Observer | None = None

    def __call__(
        self, train: Callable[[Watching], Ran], **options: Any
    ) -> tuple[Recording, dict[str, Any]]:
        """Train twice from the same seeds; the recording, and the truth of the plain run.

        Both must end in the same weights, buffers, losses and random states, bit for bit.
        """
        _seed()
        plain = train(lambda *_, **__: contextlib.nullcontext())
        expected = fingerprint(plain)
        _seed()
        watched = train(lambda *models, **more: self._watch(*models, **{**options, **more}))
        assert fingerprint(watched) == expected, "the training is not bit-identical"
        assert self.observer is not None
        assert self.observer.failure is None, self.observer.failure
        return load_run(self._folder / "run"), plain.truth

    @contextlib.contextmanager
    def _watch(
        self, *models: nn.Module, every: int = 1, activations_every: int = 1, **options: Any
    ) -> Iterator[Observer]:
        writer = Writer(self._folder / "run")
        observer = self.observer = Observer(
            models, writer=writer, every=every, activations_every=activations_every, **options
        )
        observer.attach()
        del models  # a test asks whether they are freed
        try:
            yield observer
        finally:
            observer.detach()
            writer.close()

    def number(
        self, what: str, recorded: float, truth: float, naive: float | str, rel: float = 1e-4
    ) -> None:
        """What was recorded is the truth, and what a naive tool says is not."""
        shown = Shown(what, float(recorded), float(truth), naive)
        assert shown.recorded == pytest.approx(shown.truth, rel=rel), what
        if not isinstance(naive, str):
            assert naive != pytest.approx(shown.truth, rel=0.01), f"{what}: the naive one is right"
        self.shown.append(shown)


class Table:
    """Rows of docs/styles.md."""

    HEAD = (
        "| style | situations | how it is observed | exact | not recorded, and where that is said "
        "| a number | recorded | plain run | a naive tool |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )

    @staticmethod
    def row(marker: pytest.Mark, shown: Shown, case: str | None) -> dict[str, Any]:
        """One row as JSON can hold it; ``case``: which one of a test with parameters."""
        name = marker.args[0] if case is None else f"{marker.args[0]} [{case}]"
        facts = {"part": "", "how": "", "exact": "", "missing": "nothing", "situations": ()}
        return {**facts, **marker.kwargs, "name": name, **vars(shown)}

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        """The row's line in the table."""
        naive = row["naive"] if isinstance(row["naive"], str) else _text(row["naive"])
        situations = ", ".join(map(str, row["situations"]))
        cells = (
            row["name"], situations, row["how"], row["exact"], row["missing"], row["what"],
            _text(row["recorded"]), _text(row["truth"]), naive,
        )  # fmt: skip
        return "| " + " | ".join(cells) + " |\n"


def _text(number: float) -> str:
    return f"{number:.3g}"


def fingerprint(ran: Ran) -> str:
    """sha256 of all weights, buffers, losses and random states."""
    digest = hashlib.sha256()
    for model in ran.models:
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            if isinstance(value, torch.Tensor):
                digest.update(_bytes(value.detach()))
    digest.update(repr([float(loss).hex() for loss in ran.losses]).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr(random.getstate()).encode())
    digest.update(np.random.get_state()[1].tobytes())  # noqa: NPY002  the global state is meant
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    if hasattr(tensor, "payload"):  # a wrapper subclass of these tests
        tensor = tensor.payload
    if tensor.is_nested:
        tensor = tensor.values()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    plain = tensor.detach().as_subclass(torch.Tensor).contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the global state is meant


def norm(*tensors: torch.Tensor) -> float:
    """Euclidean norm of all elements together, in float64."""
    return math.sqrt(sum(float(t.detach().abs().double().square().sum()) for t in tensors))


def rms(tensor: torch.Tensor) -> float:
    """Root of the mean square, in float64."""
    return math.sqrt(float(tensor.detach().double().square().mean()))


def gradient(run: Recording, parameter: str, step: int) -> float:
    """The recorded norm of a parameter's gradient."""
    rows = run.gradients
    (value,) = rows[(rows["parameter"] == parameter) & (rows["step"] == step)]["norm"]
    return value


def ratio(run: Recording, parameter: str, step: int) -> float:
    """The recorded update ratio of a parameter."""
    rows = run.updates
    (value,) = rows[(rows["parameter"] == parameter) & (rows["step"] == step)]["ratio"]
    return value


def module_row(run: Recording, module: str, role: int, step: int, position: int = 0) -> Any:
    """The recorded row of a module."""
    rows = run.activations
    (index,) = rows.index[
        (rows["module"] == module)
        & (rows["role"] == role)
        & (rows["step"] == step)
        & (rows["position"] == position)
    ]
    return rows.loc[index]


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def batches(count: int, size: int = 8, inputs: int = 4, outputs: int = 2) -> list[Any]:
    """Batches of inputs and floating targets, from a generator of their own."""
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(size, inputs, generator=generator),
            torch.randn(size, outputs, generator=generator),
        )
        for _ in range(count)
    ]
