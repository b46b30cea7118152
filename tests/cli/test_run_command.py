"""``gradscope run``: a script behaves as under Python, and the result is there however it ends."""

import json
import signal
import subprocess
import sys
import time

import pytest

import gradscope

LOOP = """
    import sys
    assert not {"torch", "numpy", "pandas"} & set(sys.modules), "imported before the script"
    import atexit, os, threading, time
    import torch
    from torch import nn

    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(10, 16)
            self.out = nn.Linear(16, 3)

        def forward(self, x):
            return self.out(torch.relu(self.hidden(x)))

    def train(steps, pause=0.0):
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(steps):
            try:
                x = torch.randn(32, 9 if mode == "fails" and step == 12 else 10)
                loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(step, flush=True)
                time.sleep(pause)
            except:
                if mode in ("fails", "waits"):
                    raise
        return loss.item()

    atexit.register(print, "atexit", flush=True)
    if mode == "thread":
        threading.Thread(target=train, args=(20,)).start()
    elif mode == "waits":
        try:
            train(100_000, 0.05)
        finally:
            print("finally", flush=True)
    else:
        print("loss", train(100_000 if mode == "forever" else 30))
    if mode == "leaves":
        os._exit(5)
    if mode == "exits":
        sys.exit(7)
"""


@pytest.fixture
def train(terminal):
    terminal.write(LOOP, "train.py")
    return terminal


def by_python(terminal, *words):
    done = subprocess.run(
        [sys.executable, *words], cwd=terminal.folder, env=terminal.environment, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def result(terminal):
    return json.loads((terminal.folder / "out.json").read_text())


def test_the_verdict_goes_to_stderr_and_the_report_to_the_run_folder(train):
    plain = by_python(train, "train.py", "--report", "x")
    done = train.run("run", "train.py", "--report", "x")
    assert (done.returncode, done.stdout) == plain[:2]
    assert "30 steps" in done.stderr
    assert "no problem found" in done.stderr
    (page,) = train.folder.glob(".gradscope/train-*/report.html")
    assert done.stderr.splitlines()[-1] == f"report: {page.as_uri()}"
    assert train.files() == ["train.py"]

    again = train.run("report", str(page.parent), "--format", "json")
    assert json.loads(again.stdout)["run"]["steps_seen"] == 30
    assert again.returncode == 0


def test_a_script_that_fails_keeps_its_traceback_and_its_code(train):
    plain = by_python(train, "train.py", "fails")
    done = train.run("run", "--quiet", "-o", "out.json", "train.py", "fails")
    assert plain[0] == 1
    assert (done.returncode, done.stdout, done.stderr) == plain
    found = result(train)
    assert found["exit_code"] == 1
    assert found["run"]["steps_seen"] == 12
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in found["failed"]


def test_its_exit_code_is_passed_on(train):
    done = train.run("run", "--quiet", "-o", "out.json", "train.py", "exits")
    assert done.returncode == result(train)["exit_code"] == 7
    assert result(train)["run"]["steps_seen"] == 30


def test_max_steps_ends_a_script_that_catches_everything(train):
    done = train.run("run", "--max-steps", "7", "--quiet", "-o", "out.json", "train.py", "forever")
    assert done.returncode == 0
    assert done.stdout.split() == ["0", "1", "2", "3", "4", "5"]
    assert done.stderr == ""
    found = result(train)
    assert (found["run"]["steps_seen"], found["exit_code"]) == (7, 0)
    assert found["run"]["interrupted"] == "stopped after 7 steps by --max-steps"


@pytest.mark.parametrize(("number", "last"), [("SIGTERM", None), ("SIGINT", "atexit")])
def test_a_signal_ends_it_as_it_ends_python_and_leaves_a_report(train, number, last):
    process = train.start("run", "--run-dir", "run", "-o", "out.json", "train.py", "waits")
    until(process, "9")
    during = gradscope.load_run(train.folder / "run")
    assert during.alive
    assert len(during.steps) >= 9
    process.send_signal(getattr(signal, number))
    out, err = process.communicate(timeout=600)
    assert process.returncode == -getattr(signal, number)
    # what Python does at SIGTERM runs neither `finally` nor `atexit`; at Ctrl-C both
    assert out.split()[-2:] == ["finally", "atexit"] if last else "finally" not in out
    assert ("KeyboardInterrupt" in err) == (number == "SIGINT")
    found = result(train)
    assert found["exit_code"] == 128 + getattr(signal, number)
    assert found["run"]["steps_seen"] >= 9
    assert (train.folder / "run" / "report.html").exists()
    assert not gradscope.load_run(train.folder / "run").alive


def test_what_was_recorded_before_os_exit_is_there(train):
    done = train.run("run", "--run-dir", "run", "train.py", "leaves")
    assert done.returncode == 5
    assert len(gradscope.load_run(train.folder / "run").steps) == 30


def test_it_waits_for_a_thread_that_trains(train):
    done = train.run("run", "--quiet", "-o", "out.json", "train.py", "thread")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [*map(str, range(20)), "atexit"]
    assert result(train)["run"]["steps_seen"] == 20


def test_findings_fail_it_only_where_that_is_asked_for(terminal):
    terminal.write(
        """
        import torch
        from torch import nn
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        for step in range(60):
            x = torch.randn(16, 8)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        "forgets.py",
    )
    done = terminal.run("run", "--fail-on", "warning", "--format", "json", "forgets.py")
    found = json.loads(done.stderr)
    assert (done.returncode, found["exit_code"], done.stdout) == (1, 1, "")
    assert [finding["code"] for finding in found["findings"]] == ["GS403"]
    assert found["findings"][0]["parameters"] == ["2.weight", "2.bias"]
    again = terminal.run("run", "--quiet", "--ignore", "GS403", "forgets.py")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('hello')", "the script did not import torch"),
        ("import torch\nx = torch.ones(2, requires_grad=True)\n"
         "torch.autograd.grad((x * x).sum(), x)\n", "1 call of torch.autograd.grad"),
    ],
)  # fmt: skip
def test_a_script_that_trains_nothing_is_told_so(terminal, text, said):
    terminal.write(text, "idle.py")
    done = terminal.run("run", "-o", "out.json", "idle.py")
    assert done.returncode == 0
    assert said in done.stderr
    (limit,) = result(terminal)["limits"]
    assert said in limit
    assert result(terminal)["findings"] == []


def test_switched_off_it_only_runs_the_script(train):
    train.environment["GRADSCOPE"] = "0"
    done = train.run("run", "-o", "out.json", "train.py", "exits")
    assert (done.returncode, done.stderr) == (7, "")
    assert train.files() == ["train.py"]
    assert not (train.folder / ".gradscope").exists()


def test_a_failure_of_its_own_never_changes_the_code(terminal):
    terminal.write(
        """
        import shutil
        shutil.rmtree("run")
        open("run", "w").close()
        print("done")
        """,
        "deletes.py",
    )
    done = terminal.run("run", "--run-dir", "run", "deletes.py")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "gradscope: the run was not reported" in done.stderr


def test_what_cannot_be_started_is_told_and_nothing_is_run(train):
    done = train.run("run", "nowhere.py")
    assert done.returncode == 2
    assert "there is no file 'nowhere.py'" in done.stderr
    done = train.run("run", "--select", "GS999", "train.py")
    assert (done.returncode, done.stdout) == (2, "")
    (train.folder / "run").mkdir()
    (train.folder / "run" / "rank0.000000-000000.frames").write_bytes(b"")
    time.sleep(0.01)
    done = train.run("run", "--run-dir", "run", "train.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "already holds a recording" in done.stderr
