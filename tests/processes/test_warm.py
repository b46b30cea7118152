"""A command that begins as a fork finds and leaves what one in a new interpreter does."""

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys
environment = dict(os.environ)
first = {name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names}
import torch
import atexit, numpy, random, threading, warnings

warnings.warn("careful")
numbers = [random.random(), numpy.random.rand(), torch.rand(1).item()]
optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
found = {
    "arguments": sys.argv, "original": sys.orig_argv[1:], "path": sys.path, "file": __file__,
    "name": __name__, "main": sys.modules["__main__"].__dict__ is globals(), "cwd": os.getcwd(),
    "environment": environment, "threads": threading.active_count(),
    "torch threads": torch.get_num_threads(),
    "spec": [torch.__spec__.origin, type(torch.__spec__.loader).__name__, torch.__file__],
    "first": [name for name in first if not name.startswith(("gradscope", "_", "sitecustomize"))],
    "libraries": [name for name in ("pandas", "sklearn", "click", "plotly") if name in sys.modules],
    "torch": sorted(name for name in sys.modules if name in ("torch.optim", "torch._dynamo")),
    "terminals": [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "input": sys.stdin.read(),
}
print(json.dumps(numbers))
print(json.dumps(found, sort_keys=True))
atexit.register(print, "at exit")
threading.Timer(0.3, print, ["thread"]).start()
if sys.argv[1] == "fails":
    raise ValueError("as told")
if sys.argv[1] == "dies":
    os.kill(os.getpid(), 9)
sys.exit(7)
"""


def by_python(words, folder, environment):
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("how", "code"), [("exits", 7), ("fails", 1)])
def test_it_is_what_a_new_interpreter_gives(python, tmp_path, how, code):
    (tmp_path / "probe.py").write_text(PROBE)
    environment = {**os.environ, "MINE": "1"}
    environment.pop("PYTEST_CURRENT_TEST", None)
    words = ["probe.py", how]
    new = by_python(words, tmp_path, environment)
    forks = [python.run(*words, folder=tmp_path, environment=environment) for _ in range(2)]
    drawn = [json.loads(one.stdout.splitlines()[0]) for one in (new, *forks)]
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn, strict=True)), "not seeded alike"
    for fork in forks:
        assert fork.returncode == new.returncode == code
        assert json.loads(fork.stdout.splitlines()[1]) == json.loads(new.stdout.splitlines()[1])
        assert fork.stdout.splitlines()[2:] == new.stdout.splitlines()[2:] == ["thread", "at exit"]
        assert fork.stderr == new.stderr


def test_a_module_is_run_as_by_python(python, tmp_path):
    (tmp_path / "probe.py").write_text("import sys\nprint(sys.argv, sys.path[0], __spec__.name)\n")
    words = ["-m", "probe", "-x", "1"]
    new = by_python(words, tmp_path, dict(os.environ))
    assert python.run(*words, folder=tmp_path).stdout == new.stdout != ""


def test_a_death_is_told_and_the_next_command_runs(python, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    assert python.run("probe.py", "dies", folder=tmp_path).returncode == -9
    assert python.run("probe.py", "exits", folder=tmp_path).returncode == 7


def test_commands_of_one_call_run_side_by_side(python, tmp_path):
    (tmp_path / "meets.py").write_text(
        "import os, pathlib, sys, time\n"
        "own, other = sys.argv[1:]\n"
        "pathlib.Path(own).touch()\n"
        "until = time.monotonic() + 60\n"
        "while not pathlib.Path(other).exists():\n"
        "    assert time.monotonic() < until\n"
        "    time.sleep(0.01)\n"
        "print(own, os.environ['MINE'])\n"
    )
    done = python.together(
        [["meets.py", "a", "b"], ["meets.py", "b", "a"]],
        folder=tmp_path,
        environments=[{**os.environ, "MINE": str(number)} for number in range(2)],
    )
    assert [(one.returncode, one.stdout) for one in done] == [(0, "a 0\n"), (0, "b 1\n")]
