"""``gradscope check``: streams, exit codes, files."""

import json


def test_a_healthy_model_exits_0_and_keeps_stdout_for_the_verdict(terminal, healthy):
    result = terminal.run("check", "model.py", "--steps", "120")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "a line of the model's own" in result.stderr
    assert "a line of the model's own" not in result.stdout
    assert "120 steps" in result.stdout
    assert "\x1b[" not in result.stdout + result.stderr
    assert "model.py: model `model`, batches `get_batch()`, loss `loss_fn`" in result.stderr
    assert terminal.files() == ["model.py"]
    assert (terminal.folder / ".gradscope" / ".gitignore").read_text() == "*\n"


def test_a_sick_model_exits_1_and_says_where(terminal, forgetful):
    result = terminal.run("check", "model.py", "--steps", "120", "--report", "report.html")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "GS403" in result.stdout
    page = terminal.folder / "report.html"
    assert page.stat().st_size > 20_000
    assert "GS403" in page.read_text(encoding="utf-8")
    assert page.as_uri() in result.stdout
    assert terminal.files() == ["model.py", "report.html"]


def test_fail_on_decides_the_exit_code(terminal, forgetful):
    result = terminal.run(
        "check", "model.py", "--steps", "60", "--no-try-fixes", "--fail-on", "never"
    )
    assert result.returncode == 0


def test_ignore_and_select_decide_what_is_judged(terminal, forgetful):
    words = ("check", "model.py", "--steps", "60", "--no-try-fixes", "--format", "json")
    result = terminal.run(*words, "--ignore", "GS403")
    document = json.loads(result.stdout)
    assert "GS403" not in [finding["code"] for finding in document["findings"]]
    result = terminal.run(*words, "--select", "GS4")
    document = json.loads(result.stdout)
    assert [finding["code"] for finding in document["findings"]] == ["GS403"]
    assert document["exit_code"] == result.returncode == 1
    others = [*document["passed"], *document["undecided"], *document["not_applicable"]]
    assert {outcome["code"][:3] for outcome in others} == {"GS4"}


def test_assumptions_stand_in_every_place(terminal):
    terminal.write(
        """
        from torch import nn
        model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
        """
    )
    result = terminal.run("check", "model.py", "--steps", "80", "--report", "r.html")
    for sentence in ("No batches were found", "No loss was found", "No optimizer was found"):
        assert sentence in result.stdout
        assert sentence in (terminal.folder / "r.html").read_text(encoding="utf-8")
    result = terminal.run("check", "model.py", "--steps", "80", "--format", "json")
    assert len(json.loads(result.stdout)["assumptions"]) == 3
    assert "No loss was found" in result.stderr


def test_one_object_of_the_file_can_be_named(terminal):
    terminal.write("from torch import nn\na = nn.Linear(3, 2)\nb = nn.Linear(4, 2)\n")
    result = terminal.run("check", "model.py:b", "--steps", "3", "--format", "json")
    document = json.loads(result.stdout)
    assert document["target"] == "model.py:b"
    assert "32 x 4" in " ".join(document["assumptions"])


def test_settings_come_from_pyproject_and_flags_win(terminal, healthy):
    terminal.write("[tool.gradscope]\nsteps = 7\n", "pyproject.toml")
    result = terminal.run("check", "model.py", "--format", "json")
    assert json.loads(result.stdout)["run"]["steps_seen"] == 7
    result = terminal.run("check", "model.py", "--format", "json", "--steps", "4")
    assert json.loads(result.stdout)["run"]["steps_seen"] == 4


def test_quiet_prints_nothing_but_what_was_asked_for(terminal):
    terminal.write("from torch import nn\nmodel = nn.Linear(3, 2)\n")
    result = terminal.run("check", "model.py", "--steps", "3", "--quiet", "-o", "r.json")
    assert result.stdout == result.stderr == ""
    assert json.loads((terminal.folder / "r.json").read_text())["command"] == "check"


def test_color_can_be_forced(terminal):
    terminal.write("from torch import nn\nmodel = nn.Linear(3, 2)\n")
    result = terminal.run("check", "model.py", "--steps", "3", "--color", "always")
    assert "\x1b[" in result.stdout


def test_a_run_folder_is_not_taken_twice(terminal, healthy):
    first = terminal.run("check", "model.py", "--steps", "3", "--run-dir", "runs/one")
    assert first.returncode == 0
    again = terminal.run("check", "model.py", "--steps", "3", "--run-dir", "runs/one")
    assert again.returncode == 2
    assert "runs/one" in again.stderr
    over = terminal.run("check", "model.py", "--steps", "3", "--run-dir", "runs/one", "--overwrite")
    assert over.returncode == 0


def test_a_model_that_fails_midway_is_reported_with_exit_3(terminal):
    terminal.write(
        """
        import torch
        from torch import nn
        model = nn.Linear(3, 2)
        def batches():
            for i in range(30):
                yield torch.randn(8, 3), torch.randn(8, 2)
            yield torch.randn(8, 4), torch.randn(8, 2)
        """
    )
    result = terminal.run("check", "model.py", "--report", "r.html", "-o", "r.json")
    assert result.returncode == 3
    assert "error: the forward pass of step 30 failed: RuntimeError: mat1 and mat2" in result.stderr
    document = json.loads((terminal.folder / "r.json").read_text())
    assert document["exit_code"] == 3
    assert document["run"]["steps_seen"] == 30
    assert (terminal.folder / "r.html").stat().st_size > 20_000
