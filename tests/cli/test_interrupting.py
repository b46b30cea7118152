"""Ctrl-C keeps what was recorded."""

import json
import signal

SLOW = """
    import time
    import torch
    from torch import nn
    model = nn.Linear(3, 2)
    calls = 0
    def loss(model, batch):
        global calls
        calls += 1
        if calls == 18:
            print("here", flush=True)
            time.sleep(600)
        return (model(batch[0]) - batch[1]).square().mean()
    batch = torch.randn(8, 3), torch.randn(8, 2)
"""


def interrupted(terminal, *arguments):
    process = terminal.start(*arguments)
    for line in process.stderr:
        if line.strip() == "here":
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_what_was_recorded_is_reported(terminal):
    terminal.write(SLOW)
    code, out, err = interrupted(
        terminal, "check", "model.py", "--report", "r.html", "-o", "r.json", "--run-dir", "run"
    )
    assert code == 130, err
    assert "interrupted at step 17; until then" in out
    assert "no problem found in" not in out
    assert "interrupted at step 17" in (terminal.folder / "r.html").read_text(encoding="utf-8")
    result = json.loads((terminal.folder / "r.json").read_text())
    assert (result["run"]["steps_seen"], result["exit_code"]) == (17, 130)
    again = terminal.run("report", "run")
    assert "interrupted at step 17" in again.stdout
    assert again.returncode == 130


def test_a_file_that_never_returns_while_imported(terminal):
    terminal.write("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    code, out, err = interrupted(terminal, "check", "model.py", "--report", "r.html")
    assert code == 130
    assert out == ""
    assert "error: interrupted while importing model.py" in err
    assert terminal.files() == ["model.py"]
