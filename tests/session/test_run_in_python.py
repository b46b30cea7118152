"""``session.run``: the same as the command, for a caller in Python."""

import pytest

from gradscope import session
from gradscope.errors import RunFolderError, UsageError

SCRIPT = """
import sys
import torch
from torch import nn
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[1]))
for step in range(1000):
    x = torch.randn(8, 4)
    loss = (model(x) - x[:, :2]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_script_is_run_and_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    ran = session.run("train.py", "0.1", max_steps=25, every=1, run_dir="run")
    assert ran.code == 0
    assert ran.folder == tmp_path / "run"
    assert (ran.folder / "report.html").exists()
    assert ran.nothing == ""
    assert len(ran.diagnosis.recording.steps) == 25
    assert ran.diagnosis.command == "run"
    assert ran.diagnosis.recording.run["settings"]["arguments"] == ["0.1"]
    with pytest.raises(RunFolderError, match="already holds a recording"):
        session.run("train.py", run_dir="run")


def test_what_cannot_be_started_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"there is no file 'nowhere\.py'"):
        session.run("nowhere.py")
    assert not (tmp_path / ".gradscope").exists()
