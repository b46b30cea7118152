"""Costs that arise once: importing, attaching; and whether the budget follows a changing loop."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn


def import_seconds(repeats: int) -> tuple[float, float]:
    """Median seconds of ``import torch``, and what ``import gradscope`` adds to it."""
    plain, both = [], []
    for _ in range(repeats):
        for code, found in (("import torch", plain), ("import torch, gradscope", both)):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            found.append(time.perf_counter() - begun)
    differences = [b - a for a, b in zip(plain, both, strict=True)]
    return statistics.median(plain), statistics.median(differences)


def attach_seconds(modules: int, repeats: int) -> float:
    """Median seconds that ``watch`` takes for a model of so many modules."""
    import gradscope

    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(modules - 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats + 1):
            begun = time.perf_counter()
            scope = gradscope.watch(model, optimizer=optimizer, run_dir=Path(folder, str(number)))
            taken.append(time.perf_counter() - begun)
            scope.detach()
    return statistics.median(taken[1:])  # the first one imports


def shares_when_steps_shrink(steps: int) -> tuple[float, float]:
    """Share of the time that watching took, before and after the steps got ten times shorter.

    By gradscope's own account, which the table's ratios check from outside.
    """
    import gradscope

    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(6)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        scope = gradscope.watch(model, optimizer=optimizer, run_dir=Path(folder, "run"))
        with scope:
            for samples in (640, 64):
                data = torch.randn(samples, 512)
                for _ in range(steps):
                    optimizer.zero_grad()
                    model(data).square().mean().backward()
                    optimizer.step()
        table = scope.recording.steps
    # after the change the account needs some steps to follow; the first five are not promised
    parts = table.iloc[5:steps], table.iloc[steps + steps // 4 :]
    shares = [part["own_seconds"].sum() / part["step_seconds"].sum() for part in parts]
    return shares[0], shares[1]
