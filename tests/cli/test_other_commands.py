"""``report``, ``rules``, ``runs``, and the program itself."""

import json
import re
import subprocess
import sys

import pytest


def test_report_remakes_every_output_from_the_folder_alone(terminal, forgetful):
    first = terminal.run(
        "check", "model.py", "--steps", "60", "--run-dir", "run", "-o", "a.json", "-o", "a.md"
    )
    forgetful.unlink()
    again = terminal.run("report", "run", "-o", "b.json", "--report", "b.html", "-o", "b.md")
    assert again.returncode == first.returncode == 1
    a, b = (json.loads((terminal.folder / f"{n}.json").read_text()) for n in "ab")
    assert a == b
    assert (terminal.folder / "a.md").read_text() == (terminal.folder / "b.md").read_text()
    assert (terminal.folder / "b.html").stat().st_size > 20_000


def test_report_of_no_run_is_an_error(terminal):
    result = terminal.run("report", "nowhere")
    assert result.returncode == 2
    assert "error:" in result.stderr
    assert "nowhere" in result.stderr


def test_rules_are_listed_and_each_page_is_printed(terminal):
    listed = terminal.run("rules")
    assert listed.returncode == 0
    codes = re.findall(r"^GS\d{3}", listed.stdout, re.M)
    assert {"GS101", "GS102", "GS104", "GS201", "GS301", "GS403", "GS505"} <= set(codes)
    page = terminal.run("rules", "gs101")
    assert "Why it hurts" in page.stdout
    assert terminal.run("rules", "vanishing-gradient").stdout == page.stdout


def test_an_unknown_rule_is_an_error(terminal):
    result = terminal.run("rules", "GS999")
    assert result.returncode == 2
    assert "there is no rule 'GS999'" in result.stderr


def test_runs_lists_what_was_recorded(terminal, healthy):
    assert terminal.run("runs").stdout == ""
    terminal.run("check", "model.py", "--steps", "3")
    result = terminal.run("runs")
    assert result.returncode == 0
    assert re.match(
        r"\.gradscope/model-\S+  check model\.py, .*, 3 steps, finished\n", result.stdout
    )
    (terminal.folder / ".gradscope" / "other").mkdir()
    assert "cannot be read" in terminal.run("runs").stdout


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["rules", "-h"]])
def test_help_is_printed(terminal, arguments):
    result = terminal.run(*arguments)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: gradscope")


def test_the_version_is_printed(terminal):
    import gradscope

    assert gradscope.__version__ in terminal.run("--version").stdout


def test_without_a_command_the_help_is_shown_with_exit_2(terminal):
    result = terminal.run()
    assert result.returncode == 2
    assert "Usage: gradscope" in result.stderr


def test_the_help_and_the_rules_do_not_wait_for_torch(terminal):
    code = (
        "import sys; from gradscope.cli import main; main(['check', '--help']); main(['rules']); "
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0
