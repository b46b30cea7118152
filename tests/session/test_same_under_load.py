"""One training, watched five times while the processors are busy: the verdict stays the same."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradscope


@pytest.fixture
def load():
    """As many busy processes as there are processors, and one more."""
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin) for _ in range((os.cpu_count() or 1) + 1)]
    yield
    for process in busy:
        process.kill()
        process.wait()


def vanishing():
    layers = [part for _ in range(8) for part in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(16, 4)), 0.1


def cut():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)).detach())

    return Cut(), 0.01


def verdict(make, run_dir, **how):
    torch.manual_seed(0)
    model, rate = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    x, y = torch.randn(256, 16), torch.randint(4, (256,))
    with gradscope.watch(model, run_dir=run_dir, **how) as scope:
        for step in range(120):
            at = slice(step % 4 * 64, step % 4 * 64 + 64)
            optimizer.zero_grad()
            functional.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
    return [
        (f.code, f.kind, f.severity, f.modules, f.parameters, f.first_step,
         tuple(e.name for e in f.evidence))
        for f in scope.diagnose()
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("make", "code"), [(vanishing, "GS101"), (cut, "GS104")])
@pytest.mark.parametrize("how", [{}, {"every": 1}], ids=["budget", "every step"])
def test_five_times_under_load(tmp_path, load, make, code, how):
    found = [verdict(make, tmp_path / str(run), **how) for run in range(5)]
    assert code in [finding[0] for finding in found[0]]
    assert found == [found[0]] * 5
