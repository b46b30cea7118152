"""``doctor``, ``export``, ``runs`` of a folder that is not there, and a fault while importing."""

import subprocess
import sys

import pandas as pd


def test_doctor_says_what_is_here(terminal):
    result = terminal.run("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gradscope works here" in result.stdout
    assert "ok   torch: 2." in result.stdout
    assert "torch._C._current_graph_task_id: found" in result.stdout
    assert ".gradscope can be written" in result.stdout
    assert terminal.files() == [], "it leaves nothing behind"


def test_doctor_finds_a_wrong_setting(terminal):
    (terminal.folder / "pyproject.toml").write_text("[tool.gradscope]\nstepz = 3\n")
    result = terminal.run("doctor")
    assert result.returncode == 2
    assert "BAD  settings: unknown setting 'stepz'" in result.stdout
    assert "to be mended: settings" in result.stdout


def test_export_writes_files_and_says_which(terminal, healthy):
    terminal.run("check", "model.py", "--steps", "4", "-q", "--run-dir", "run")
    result = terminal.run("export", "run", "--to", "csv")
    assert result.returncode == 0, result.stderr
    files = result.stdout.splitlines()
    assert "run-csv/steps.csv" in files
    assert pd.read_csv(terminal.folder / "run-csv" / "steps.csv")["step"].tolist() == [0, 1, 2, 3]
    assert terminal.run("export", "nowhere", "--to", "csv").returncode == 2
    assert terminal.run("export", "run").returncode == 2
    assert terminal.run("export", "run", "--to", "xlsx").returncode == 2


def test_runs_of_a_folder_that_is_not_there_is_an_error(terminal):
    result = terminal.run("runs", "nowhere")
    assert result.returncode == 2
    assert "error: 'nowhere' is no folder" in result.stderr
    empty = terminal.run("runs")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "no runs in .gradscope" in empty.stderr


def test_a_fault_while_importing_is_no_finding():
    # Python's own exit code for it would be 1, which means "findings"
    code = (
        "import sys; sys.modules['click'] = None; "
        "from gradscope.__main__ import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "a fault of gradscope itself" in result.stderr
