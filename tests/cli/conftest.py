"""The command as a person runs it: a process of its own, in an empty folder.

Most of them begin as a fork, see tests/processes; ``anew`` and ``start`` begin an interpreter.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from warm import WarmPython


class Terminal:
    """A folder, and the command run in it."""

    def __init__(self, folder: Path, python: WarmPython) -> None:
        self.folder = folder
        self.python = python
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GRADSCOPE", "PYTEST", "COV", "GITHUB"))
            and name not in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE")
        } | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}

    def write(self, text: str, name: str = "model.py") -> Path:
        file = self.folder / name
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "gradscope", *arguments], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.python.run(
            "-m", "gradscope", *arguments, folder=self.folder, environment=self.environment
        )

    def anew(self, *arguments: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def files(self) -> list[str]:
        """What lies in the folder, without the recordings."""
        return sorted(p.name for p in self.folder.iterdir() if p.name != ".gradscope")


@pytest.fixture
def terminal(tmp_path, python) -> Terminal:
    return Terminal(tmp_path, python)


HEALTHY = """
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    teacher = torch.randn(20, 5)
    def get_batch():
        x = torch.randn(64, 20)
        return x, (x @ teacher).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss_fn = nn.CrossEntropyLoss()
    print("a line of the model's own")
"""
FORGETFUL = HEALTHY.replace("Adam(model.parameters()", "Adam(model[0].parameters()")
"""The last layer is missing from the optimizer: GS403."""


@pytest.fixture
def healthy(terminal) -> Path:
    return terminal.write(HEALTHY)


@pytest.fixture
def forgetful(terminal) -> Path:
    return terminal.write(FORGETFUL)
