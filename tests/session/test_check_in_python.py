"""``gradscope.check`` called from Python."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import GradscopeError, StepError

FILE = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.Adam(model[0].parameters(), lr=1e-2)
"""


def test_a_file_is_checked_and_the_process_is_as_before(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(FILE)
    state, path, argv = torch.get_rng_state(), list(sys.path), list(sys.argv)
    diagnosis = gradscope.check("model.py", steps=60)
    assert [finding.code for finding in diagnosis.findings] == ["GS403"]
    assert diagnosis.exit_code == 1
    assert diagnosis.findings[0].fixes
    assert diagnosis.reproduce == "gradscope check model.py --steps 60 --no-try-fixes"
    assert torch.equal(torch.get_rng_state(), state)
    assert (sys.path, sys.argv) == (path, argv)
    assert "model" not in sys.modules
    assert capfd.readouterr().out == ""
    assert gradscope.check(Path("model.py"), steps=60, fail_on="never").exit_code == 0


def test_a_module_is_checked_and_left_as_it_was(training):
    model = training.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    diagnosis = gradscope.check(
        model, batches=(x, x[:, :5].argmax(1)), loss=nn.CrossEntropyLoss(), steps=60,
        optimizer=lambda m: torch.optim.Adam(m[0].parameters(), lr=1e-2),
    )  # fmt: skip
    assert [finding.code for finding in diagnosis.findings] == ["GS403"]
    assert diagnosis.target == "Sequential"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("kind", ["list", "loader", "function", "dataset"])
def test_batches_may_be_given_in_every_form(training, kind):
    x = torch.randn(64, 20)
    pair = x, x[:, :5].argmax(1)
    data = torch.utils.data.TensorDataset(*pair)
    batches = {
        "list": [pair, pair],
        "loader": torch.utils.data.DataLoader(data, 16),
        "function": lambda: iter([pair]),
        "dataset": data,
    }[kind]
    diagnosis = gradscope.check(training.model, batches=batches, steps=5)
    assert len(diagnosis.recording.steps) == 5


def test_a_failure_midway_says_where_the_recording_is(training):
    x = torch.randn(8, 20)
    good, bad = (x, torch.zeros(8, dtype=torch.long)), (x[:, :3], torch.zeros(8, dtype=torch.long))
    with pytest.raises(StepError, match="forward pass of step 2") as caught:
        gradscope.check(training.model, batches=[good, good, bad], run_dir="run")
    assert "gradscope report" in caught.value.hint
    recording = gradscope.load_run("run")
    assert len(recording.steps) == 2
    assert recording.run["failed"].startswith("the forward pass of step 2 failed")


def test_a_failure_at_the_first_step_leaves_no_recording(training):
    def loss(model, batch):
        raise RuntimeError("mine")

    with pytest.raises(StepError, match="mine"):
        gradscope.check(training.model, batches=torch.randn(8, 20), loss=loss)
    assert not list(Path(".gradscope").glob("*/"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "setting 'steps' cannot be 0"),
        ({"input": "large"}, "setting 'input' cannot be 'large'"),
        ({"fail_on": "error"}, "setting 'fail_on' cannot be 'error'"),
        ({"batches": []}, "batches, loss and optimizer belong to a module"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(FILE)
    with pytest.raises(GradscopeError) as caught:
        gradscope.check("model.py", **options)
    assert words in str(caught.value)


def test_an_output_that_cannot_be_written_is_told_and_leaves_nothing(training):
    from gradscope.session import save

    diagnosis = gradscope.check(training.model, steps=3)
    Path("taken").write_text("a file, not a folder")
    with pytest.raises(GradscopeError, match="cannot be written"):
        save(diagnosis, "taken/report.json")
    assert sorted(p.name for p in Path.cwd().iterdir()) == [".gradscope", "taken"]


def test_the_same_seed_gives_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        FILE + "def get_batch():\n    x = torch.randn(16, 20)\n    return x, x[:, :5].argmax(1)\n"
    )
    Path("model.py").write_text(text)

    def losses(seed):
        return list(gradscope.check("model.py", steps=10, seed=seed).recording.steps["loss"])

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
