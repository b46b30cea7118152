"""``gradscope live`` beside a training in another process: to its end, and past its death."""

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

TRAINING = """
    import sys, time
    import torch
    from torch import nn
    import gradscope

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps, bad = int(sys.argv[2]), int(sys.argv[3])
    with gradscope.watch(model, run_dir=sys.argv[1]):
        for step in range(steps):
            x = torch.randn(16, 8)
            loss = nn.functional.cross_entropy(model(x * float("nan") if step == bad else x),
                                               x[:, :3].argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep(0.02)
"""


def start(terminal, steps: int, bad: int = -1) -> subprocess.Popen:
    terminal.write(TRAINING, "train.py")
    return subprocess.Popen(
        [sys.executable, "train.py", "run", str(steps), str(bad)], cwd=terminal.folder,
        env=terminal.environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def until_the_first_step(live: subprocess.Popen) -> bool:
    """Read what is told until a step is; before the first one there is nothing to tell."""
    return any(line.startswith("step ") for line in iter(live.stdout.readline, ""))


def test_it_follows_to_the_end_and_tells_alarms_as_they_come(terminal) -> None:
    training = start(terminal, 150, bad=60)
    done = terminal.run("live", "run", "--wait", "200", "--every", "0.3")
    assert training.wait(240) == 0
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "run finished"
    steps = [
        int(m[1].replace(",", "")) for m in re.finditer(r"^step ([\d,]+)  ", done.stdout, re.M)
    ]
    assert steps == sorted(set(steps))
    assert steps[-1] == 149
    alarms = [line for line in lines if line.startswith("alarm: step 60:")]
    assert any("loss is not finite" in line for line in alarms)
    assert len(alarms) == len(set(alarms)), "an alarm is told once"
    assert "\x1b" not in done.stdout, "no escapes where stdout is no terminal"
    assert "GS201" in done.stdout


def test_it_outlives_a_training_that_is_killed_and_says_so(terminal) -> None:
    training = start(terminal, 100_000)
    live = terminal.start("live", "run", "--wait", "200", "--every", "0.3")
    assert until_the_first_step(live)
    training.send_signal(signal.SIGKILL)
    training.wait()
    out, err = live.communicate(timeout=240)
    assert live.returncode == 0, err
    assert "run broken off: the process that wrote it is gone and said no end" in out


def test_ctrl_c_ends_the_view_and_not_the_training(terminal) -> None:
    training = start(terminal, 100_000)
    live = terminal.start("live", "run", "--wait", "200", "--every", "0.3")
    try:
        assert until_the_first_step(live)
        live.send_signal(signal.SIGINT)
        _, err = live.communicate(timeout=240)
        assert live.returncode == 0
        assert "stopped watching; the training goes on" in err
        assert "Traceback" not in err
        assert training.poll() is None
    finally:
        training.kill()
        training.wait()


def test_the_page_is_served_to_this_machine_only(terminal) -> None:
    training = start(terminal, 100_000)
    live = terminal.start("live", "run", "--wait", "200", "--every", "0.3", "--html")
    try:
        url = live.stderr.readline().removeprefix("page: ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with urllib.request.urlopen(url, timeout=30) as answer:
            page = answer.read().decode()
            assert answer.headers["Cache-Control"] == "no-store"
        assert 'http-equiv="refresh"' in page
        assert "running" in page
        assert "gradient norm" in page
        for changed in (
            urllib.request.Request(url, headers={"Host": "evil.example"}),
            urllib.request.Request(url + "etc/passwd"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(changed, timeout=30)
            assert refused.value.code in (403, 404)
            refused.value.close()
        training.kill()
        training.wait()
        until = time.monotonic() + 120
        while 'http-equiv="refresh"' in page and time.monotonic() < until:
            time.sleep(0.3)
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    page = answer.read().decode()
            except (urllib.error.URLError, ConnectionError):
                break
        assert "broken off" in page, "the end was served, without a further refresh"
        live.communicate(timeout=240)
        assert live.returncode == 0
    finally:
        for process in (training, live):
            if process.poll() is None:
                process.kill()
            process.wait()
        for stream in (live.stdout, live.stderr):
            stream.close()


def test_once_shows_how_it_stands_and_ends(terminal) -> None:
    assert start(terminal, 12).wait(240) == 0
    done = terminal.run("live", "run", "--once")
    assert done.returncode == 0
    assert "finished" in done.stdout
    assert "look first" in done.stdout


def test_a_folder_without_a_run_is_told(terminal) -> None:
    done = terminal.run("live", "nowhere")
    assert done.returncode == 2
    assert "cannot be read as a run folder" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_in_a_terminal_it_redraws_and_leaves_the_terminal_as_it_was(terminal) -> None:
    import fcntl
    import pty
    import termios

    training = start(terminal, 100_000, bad=20)
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(its)
    live = subprocess.Popen(
        [sys.executable, "-m", "gradscope", "live", "run", "--wait", "200", "--every", "0.3"],
        cwd=terminal.folder, env=terminal.environment | {"TERM": "xterm-256color"},
        stdin=its, stdout=its, stderr=its,
    )  # fmt: skip
    shown, until, steps = "", time.monotonic() + 400, set()
    try:
        while live.poll() is None and time.monotonic() < until:
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 65_536).decode("utf-8", "replace")
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
            steps = set(re.findall(r"^(\d[\d,]*)  +(?:NaN|\d)", plain, re.M))
            if len(steps) > 2 and "from step 20 on" in plain and training.poll() is None:
                training.send_signal(signal.SIGKILL)
                training.wait()
        while select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 65_536).decode("utf-8", "replace")
        after = termios.tcgetattr(its)
    finally:
        for process in (training, live):
            process.kill()
            process.wait()
        os.close(its)
        os.close(ours)
    assert live.returncode == 0, shown[-2000:]
    assert len(steps) > 2, "the screen is drawn anew as the training goes on"
    assert after == before
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is shown again"
    last = shown.rstrip().splitlines()[-1]
    assert "run broken off" in last or "run broken off" in shown.rstrip().splitlines()[-2]
