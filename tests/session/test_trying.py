"""Trying fixes through check, a watched loop and a script: results, and what stays untouched."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradscope
from gradscope import config
from gradscope.session.checking import check_file

MODEL = """
import torch
from torch import nn

layers = []
for index in range(9):
    layers.append(nn.Linear(20 if index == 0 else 32, 32))
    layers.append(nn.Sigmoid())
model = nn.Sequential(*layers, nn.Linear(32, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
criterion = nn.CrossEntropyLoss()


def get_batch():
    x = torch.randn(64, 20)
    return x, x[:, :5].argmax(1)
"""
SCRIPT = (
    MODEL
    + """
print("begun", flush=True)
for step in range(70):
    x, y = get_batch()
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with open("log.txt", "a") as log:
        log.write(f"{step} {loss.item()}\\n")
torch.save(model.state_dict(), "final.pt")
"""
)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_tries_the_fixes_and_changes_nothing_around_it(here):
    (here / "model.py").write_text(MODEL)
    settings = config.Settings(steps=60, trial_steps=40)
    before = (torch.get_rng_state(), list(sys.path), Path.cwd(), set(sys.modules))
    checked = check_file("model.py", settings)
    run = contents(here)
    after = (torch.get_rng_state(), list(sys.path), Path.cwd(), set(sys.modules))
    assert torch.equal(before[0], after[0])
    assert before[1:3] == after[1:3]
    assert "model" not in after[3] - before[3]
    first = checked.diagnosis.findings[0].fixes[0]
    assert first.trial.status == "helped", first
    assert "--trial-steps 40" in checked.diagnosis.reproduce
    # the run folder holds what a check without trials writes
    names = {Path(name).name for name in run}
    assert "model.py" in names
    assert not list(here.rglob("*.alive"))
    patched = first.diff
    assert patched is not None
    assert "Norm1d" in patched or "ReLU" in patched


def test_check_without_trials_says_so(here):
    (here / "model.py").write_text(MODEL)
    checked = check_file("model.py", config.Settings(steps=60, try_fixes=False))
    assert all(fix.trial.status == "not-tried" for fix in checked.diagnosis.findings[0].fixes)
    assert "--no-try-fixes" in checked.diagnosis.reproduce


def sick_model():
    torch.manual_seed(0)
    layers = []
    for index in range(9):
        layers += [nn.Linear(20 if index == 0 else 32, 32), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(32, 5))


def batches(count):
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(64, 20, generator=generator)
        yield x, x[:, :5].argmax(1)


def loss_of(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def watched(here):
    model = sick_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with gradscope.watch(model, budget=None, run_dir=here / "run") as scope:
        for batch in batches(60):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    return scope, model, optimizer


def test_a_watched_loop_keeps_batches_for_its_trials(watched, here):
    scope, model, optimizer = watched
    weights = [p.detach().clone() for p in model.parameters()]
    moments = [s["exp_avg"].clone() for s in optimizer.state.values()]
    run, state = contents(here), torch.get_rng_state()
    without = scope.try_fixes()
    assert {fix.trial.reason for fix in without[0].fixes} == {
        "pass loss=, a function of the model and a batch"
    }
    found = scope.try_fixes(loss_of, steps=40)
    assert found[0].fixes[0].trial.status == "helped", found[0].fixes[0]
    # what was recorded stays as it is; the trials stand in files of their own
    now = contents(here)
    assert {name: now[name] for name in run} == run
    assert all(name.endswith(".frames") for name in now.keys() - run.keys())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(
        torch.equal(a, s["exp_avg"]) for a, s in zip(moments, optimizer.state.values(), strict=True)
    )
    # a report that is written later tells of them
    text = scope.report(here / "report.txt").read_text(encoding="utf-8")
    assert "tried: helped" in text
    assert not model._forward_pre_hooks


def test_kept_batches_are_what_the_loop_trained_on(watched):
    scope, _, _ = watched
    expected = list(batches(60))
    kept = scope._kept.batches
    assert 8 <= len(kept) <= 16
    for x, y in kept:
        assert any(torch.equal(x, a) and torch.equal(y, b) for a, b in expected)


def test_a_checked_module_is_tried_as_it_was_and_left_so(here):
    model = sick_model()
    weights = [p.detach().clone() for p in model.parameters()]
    diagnosis = gradscope.check(
        model, batches=list(batches(40)), loss=loss_of, steps=60, trial_steps=40, try_fixes=True,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2), run_dir=here / "run",
    )  # fmt: skip
    assert diagnosis.findings[0].fixes[0].trial.status == "helped"
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


TRY = """
import json
from gradscope import config, session
from gradscope.running.script import Script
from gradscope.session.trying_script import try_script

diagnosis = session.from_folder("run")
told = []
settings = config.Settings(trial_steps=40, trial_seeds=2)
tried = try_script(diagnosis, Script("train.py"), settings, lambda *words: told.append(words[1]))
fix = tried.findings[0].fixes[0]
print(json.dumps([fix.trial.status, told, repr(fix)]))
"""


def test_a_script_is_run_again_in_a_copy_of_its_folder(python, here):
    """Not from this process: each trial imports what the one that asks for it has imported."""
    (here / "train.py").write_text(SCRIPT)
    python.run(
        "-m", "gradscope", "run", "--run-dir", "run", "--every", "1", "train.py", folder=here
    ).check_returncode()
    before = contents(here)
    (here / "try.py").write_text(TRY)
    done = python.run("try.py", folder=here)
    assert done.returncode == 0, done.stderr
    status, told, fix = json.loads(done.stdout)
    assert status == "helped", fix
    assert set(told) == {0, 1}
    # neither the log nor the weights were written again
    (here / "try.py").unlink()
    assert contents(here) == before
    assert len((here / "log.txt").read_text().splitlines()) == 70


def test_a_trial_finds_what_stands_beside_the_file_and_leaves_nothing_there(here, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (here / "beside.py").write_text("SCALE = 1.0\n")
    # imported when a batch is asked for, long after the file itself
    (here / "model.py").write_text(
        MODEL.replace(
            "x = torch.randn(64, 20)",
            "from beside import SCALE\n    x = SCALE * torch.randn(64, 20)",
        )
    )
    settings = config.Settings(steps=60, try_fixes=True, trial_seeds=1, trial_steps=60)
    diagnosis = check_file("model.py", settings).diagnosis
    tried = [fix.trial for finding in diagnosis.findings for fix in finding.fixes if fix.trial]
    assert "helped" in {trial.status for trial in tried}, [trial.reason for trial in tried]
    assert sorted(path.name for path in here.iterdir()) == [".gradscope", "beside.py", "model.py"]
