"""gradscope's modes and its peers, each attached to a loop in the way that its own page shows."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

Each = Callable[[int], None]
"""Called after each backward with the step's number."""


@dataclass(frozen=True)
class Tool:
    """One thing that is attached.

    Attributes:
        name: as in the table.
        attach: a context manager over (model, optimizer, folder) that gives an ``Each``.
        needs: the module without which it cannot be measured, or "".
        whole: measured over at least 500 steps in a row, since it decides for itself when to look.
        environment: set before anything is imported.
    """

    name: str
    attach: Any
    needs: str = ""
    whole: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def installed(self) -> bool:
        """Whether what it needs is there."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def _nothing(step: int) -> None: ...


@contextmanager
def _bare(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    yield _nothing


@contextmanager
def _floor(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    parameters = list(model.parameters())

    def each(step: int) -> None:
        for parameter in parameters:
            parameter.grad.sum()

    yield each


@contextmanager
def _statistics(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    from gradscope.observe.reading.gradients import gradient_rows

    parameters = list(enumerate(model.parameters()))

    def each(step: int) -> None:
        gradient_rows(step, parameters, None, count=False)

    yield each


def _watch(**options: Any) -> Any:
    @contextmanager
    def attach(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
        import gradscope

        scope = gradscope.watch(model, optimizer=optimizer, run_dir=folder / "run", **options)
        with scope:
            yield _nothing

    return attach


@contextmanager
def _lightning(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    from lightning.pytorch.utilities import grad_norm

    yield lambda step: grad_norm(model, norm_type=2) and None


@contextmanager
def _tensorboard(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    from torch.utils.tensorboard import SummaryWriter

    named = list(model.named_parameters())
    with SummaryWriter(folder / "tensorboard") as writer:

        def each(step: int) -> None:
            for name, parameter in named:
                writer.add_histogram(name, parameter.grad, step)

        yield each


@contextmanager
def _wandb(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    import wandb

    run = wandb.init(mode="offline", dir=str(folder), settings=wandb.Settings(silent=True))
    run.watch(model, log="gradients", log_freq=1)
    yield lambda step: run.log({"step": step})
    run.finish(quiet=True)


@contextmanager
def _underflow(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    from transformers.debug_utils import DebugUnderflowOverflow

    DebugUnderflowOverflow(model)
    yield _nothing


@contextmanager
def _anomaly(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    with torch.autograd.detect_anomaly(check_nan=True):
        yield _nothing


@contextmanager
def _torchmortem(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    import torchmortem

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    autopsy = torchmortem.Autopsy(model, optimizer=optimizer)
    autopsy.attach()
    yield lambda step: autopsy.step() and None
    autopsy.detach()


@contextmanager
def _torchdiag(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    import torchdiag

    yield lambda step: torchdiag.check_gradients(model) and None


@contextmanager
def _traintools(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    from traintools.gradhealth import GradientHealthMonitor

    monitor = GradientHealthMonitor()
    yield lambda step: monitor.inspect(model, step=step, lr=1e-5) and None


@contextmanager
def _msprobe(model: nn.Module, optimizer: Any, folder: Path) -> Iterator[Each]:
    os.environ["MONITOR_OUTPUT_DIR"] = str(folder / "msprobe")
    from msprobe.pytorch import TrainerMon

    settings = {
        "targets": {"": {}}, "wg_distribution": True, "format": "csv", "eps": 1e-8,
        "ops": ["norm", "min", "max", "mean", "nans", "zeros"],
    }  # fmt: skip
    file = folder / "msprobe.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    monitor = TrainerMon(str(file), params_have_main_grad=False)
    monitor.set_monitor(model, grad_acc_steps=1, optimizer=optimizer)
    yield _nothing


_TORCH_ONLY = (("GRADSCOPE_KERNEL", "0"),)

BARE = Tool("bare", _bare)
OWN = (
    Tool("bare again", _bare),
    Tool("read every gradient once", _floor),
    Tool("gradscope statistics, torch", _statistics, environment=_TORCH_ONLY),
    Tool("gradscope statistics, kernel", _statistics),
    Tool("gradscope watch, budget 3 %", _watch(), whole=True),
    Tool("gradscope watch, every=1", _watch(every=1)),
    Tool("gradscope trip-wire alone", _watch(every=1_000_000)),
)
PEERS = (
    Tool("Lightning grad_norm", _lightning, "lightning"),
    Tool("wandb.watch, log_freq=1", _wandb, "wandb"),
    Tool("TensorBoard histograms", _tensorboard, "tensorboard"),
    Tool("DebugUnderflowOverflow", _underflow, "transformers"),
    Tool("detect_anomaly", _anomaly),
    Tool("torchmortem", _torchmortem, "torchmortem"),
    Tool("torchdiag", _torchdiag, "torchdiag"),
    Tool("traintools", _traintools, "traintools"),
    Tool("msprobe monitor", _msprobe, "msprobe"),
)
