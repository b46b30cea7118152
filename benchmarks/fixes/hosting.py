"""A case of the accuracy benchmark as a training that trials can repeat."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

import torch

import gradscope
from benchmarks.accuracy.cases import Case
from benchmarks.accuracy.training import draft_of, ready
from gradscope.advise.arm import Start
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.session.judging import judge

FRESH = 50
"""Seeds from here on are those that no trial has seen."""


def diagnosed(case: Case) -> tuple[Diagnosis, float]:
    """The diagnosis of a case that gradscope watches on every step, and the quality reached."""
    training = ready(draft_of(case), case.seed)
    model = training.models["model"]
    others = [network for name, network in training.models.items() if name != "model"]
    with tempfile.TemporaryDirectory(prefix="gradscope-fixes-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with gradscope.watch(
                model, *others, run_dir=Path(folder) / "run", every=1, activations_every=1
            ) as scope:
                training.run()
        recording = scope.recording
        return judge(recording), training.share()


def start(case: Case, seed: int) -> Start:
    """The training with another seed, ready for its first step; runs in a child process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    own = case.reseeded(case.seed + seed)
    training = ready(draft_of(own), own.seed)
    return Start(
        run=functools.partial(_run, training),
        roots=tuple(training.models.values()),
        by_hand=case.loop == "manual",
        quality=training.share,
    )


def _run(training: object, steps: int) -> None:
    training.run()  # type: ignore[attr-defined]


__all__ = ["FRESH", "diagnosed", "start"]
