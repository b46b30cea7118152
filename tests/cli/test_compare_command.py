"""``gradscope compare`` as a person and as CI runs it."""

import json

import pytest

MODEL = """
    import torch
    from torch import nn

    model = nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )
    FROZEN = False
    def get_batch():
        x = torch.randn(32, 8)
        return x, x[:, :3].argmax(1)
    criterion = nn.CrossEntropyLoss()
    def make_optimizer(model):
        return torch.optim.Adam((model[2] if FROZEN else model).parameters(), lr=1e-2)
"""


@pytest.fixture
def two_runs(terminal):
    terminal.write(MODEL)
    terminal.write(MODEL.replace("FROZEN = False", "FROZEN = True"), "other.py")
    for file, folder in (("model.py", "a"), ("other.py", "b")):
        done = terminal.run(
            "check", file, "--steps", "60", "--run-dir", folder, "--no-try-fixes", "-q"
        )
        assert done.returncode in (0, 1), done.stderr
    return terminal


def test_a_regression_fails_only_when_asked(two_runs) -> None:
    told = two_runs.run("compare", "a", "b")
    assert told.returncode == 0, told.stderr
    assert "Where they part" in told.stdout
    assert "regression: new: GS403" in told.stdout
    assert two_runs.run("compare", "a", "b", "--fail-on", "regression", "-q").returncode == 1
    # the other way round it is an improvement
    assert two_runs.run("compare", "b", "a", "--fail-on", "regression", "-q").returncode == 0
    assert two_runs.run("compare", "b", "a", "--fail-on", "difference", "-q").returncode == 1
    done = two_runs.run(
        "compare", "a", "b", "--fail-on", "regression", "--report", "page.html",
        "--output", "c.json",
        "--format", "junit", "--output", "c.xml",
    )  # fmt: skip
    found = json.loads((two_runs.folder / "c.json").read_text())
    assert done.returncode == found["exit_code"] == 1
    assert found["apart"] is True
    assert any(change["kind"] == "new" for change in found["changes"])
    assert "GS403" in (two_runs.folder / "c.xml").read_text()
    page = (two_runs.folder / "page.html").read_text()
    assert "Worse in B" in page
    assert 'data-figure="loss-curve"' in page


def test_wrong_usage(terminal) -> None:
    assert terminal.run("compare", "a").returncode == 2
    done = terminal.run("compare", "a", "b")
    assert done.returncode == 2
    assert "cannot be read as a run folder" in done.stderr
