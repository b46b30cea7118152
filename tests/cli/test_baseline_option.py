"""``--baseline`` and the other options of ``report``, from the command line."""

import json

from gradscope.session import from_folder

CHECK = ("check", "model.py", "--steps", "5", "--no-try-fixes")
BROKEN = """
    import torch
    from torch import nn

    class Log(nn.Module):
        def forward(self, x):
            return x.log()

    model = nn.Sequential(nn.Linear(20, 5), Log())
    loss_fn = nn.CrossEntropyLoss()
    def get_batch():
        x = torch.randn(64, 20)
        return x, x[:, :5].argmax(1)
"""
"""The logarithm of a negative number: GS201 at `1`."""


def test_only_new_findings_fail(terminal):
    terminal.write(BROKEN)
    assert terminal.run(*CHECK, "-q", "-o", "known.json", "--run-dir", "first").returncode == 1
    result = terminal.run(
        *CHECK, "--baseline", "known.json", "-o", "again.json", "--run-dir", "run"
    )
    assert result.returncode == 0, result.stdout
    assert "known error[GS201]" in result.stdout
    assert "no new problem found (1 known)" in result.stdout
    document = json.loads((terminal.folder / "again.json").read_text())
    assert [(f["code"], f["known"]) for f in document["findings"]] == [("GS201", True)]
    assert document["exit_code"] == 0
    assert "--baseline known.json" in document["reproduce"]

    (terminal.folder / "known.json").unlink()
    again = terminal.run("report", "run")
    assert again.returncode == 0, "what was known is kept with the run"
    assert "known error[GS201]" in again.stdout

    # options of report replace those that the run was recorded with
    assert terminal.run("report", "first", "-q", "--fail-on", "never").returncode == 0
    first = terminal.folder / "first"
    assert from_folder(first).exit_code == 1
    assert from_folder(first, ignore=["GS201:0"]).exit_code == 1
    assert from_folder(first, ignore=["GS201:1"]).exit_code == 0
    assert from_folder(first, select=["GS1"]).exit_code == 0
    assert from_folder(first, baseline=terminal.folder / "again.json").exit_code == 0


def test_the_project_file_knows_a_baseline(terminal):
    terminal.write(BROKEN)
    table = '[tool.gradscope]\nsteps = 5\ntry-fixes = false\nbaseline = "ci/known.json"\n'
    (terminal.folder / "pyproject.toml").write_text(table)
    missing = terminal.run("check", "model.py")
    assert missing.returncode == 2
    assert missing.stderr.count("error:") == 1
    assert "ci/known.json' cannot be read" in missing.stderr
    assert terminal.files() == ["model.py", "pyproject.toml"]
    assert not (terminal.folder / ".gradscope").exists(), "told before anything was trained"
    (terminal.folder / "ci").mkdir()
    (terminal.folder / "ci" / "known.json").write_text('{"schema_version": 1, "findings": []}')
    assert terminal.run("check", "model.py", "-o", "ci/known.json").returncode == 1
    below = terminal.folder / "deeper"
    below.mkdir()
    terminal.folder = below
    assert terminal.run("check", "../model.py").returncode == 0, "the path is the project file's"
