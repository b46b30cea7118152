"""Each command in an interpreter of its own: it says what it says in the fork of a warm one.

The other tests of this folder begin most commands as such forks.
"""

import re
import shutil

import pytest

MODEL = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    batches = [(torch.randn(16, 6), torch.randint(3, (16,)))]
    loss = nn.CrossEntropyLoss()
"""
LOOP = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    optimizer.zero_grad()
    loss(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
print("trained")
"""
COMMANDS = (
    "check model.py --steps 3 --run-dir here",
    "compare run run",
    "doctor",
    "export run --to csv",
    "gradcheck model.py --run-dir here",
    "live run --once",
    "report run --format full",
    "rules gs101",
    "run --run-dir here --every 1 train.py",
    "runs .",
    "trace model.py",
)


@pytest.fixture(scope="module")
def recorded(python, tmp_path_factory):
    """A folder with a run in it."""
    folder = tmp_path_factory.mktemp("recorded")
    text = "\n".join(line.strip() for line in MODEL.splitlines())
    (folder / "model.py").write_text(text)
    (folder / "train.py").write_text(text + LOOP)
    words = ("check", "model.py", "--steps", "3", "--run-dir", "run", "--quiet")
    python.run("-m", "gradscope", *words, folder=folder).check_returncode()
    return folder


def without_times(text):
    """A run tells how long it took and what share of it was gradscope's."""
    return re.sub(r"[\d.]+ (%|s\b|ms)", r"0 \1", text)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[0])
def test_a_new_interpreter_says_the_same(terminal, recorded, line):
    told = []
    for run in (terminal.anew, terminal.run):
        # the same place for both: some tell it
        shutil.rmtree(terminal.folder)
        shutil.copytree(recorded, terminal.folder)
        done = run(*line.split())
        told.append((done.returncode, without_times(done.stdout), without_times(done.stderr)))
    assert told[0] == told[1]
    assert told[0][0] == 0, told[0]
    assert told[0][1:] != ("", "")
