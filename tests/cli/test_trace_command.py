"""``gradscope trace`` and ``check --explain`` as a person runs them."""

import json

MODEL = """
    import torch
    from torch import nn

    class_names = ["ant", "bee", "cat"]
    feature_names = list("abcdef")
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    def get_batch():
        x = torch.randn(16, 6)
        return x, x[:, :3].argmax(1)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    print("a line of the model's own")
"""


def test_a_trace_prints_its_sections_and_writes_what_was_asked_for(terminal) -> None:
    terminal.write(MODEL)
    done = terminal.run(
        "trace", "model.py", "--sample", "3", "--steps", "5", "--integrated-gradients",
        "--report", "page.html", "--output", "trace.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("Forward", "Prediction", "Loss", "Chain rule", "Inputs", "Update"):
        assert f"\n{name}\n" in done.stdout
    assert "checks against theory, all hold" in done.stdout
    assert "report: file://" in done.stdout
    assert "a line of the model's own" in done.stderr
    assert "own" not in done.stdout[:40]
    assert terminal.files() == ["model.py", "page.html", "trace.json"]
    trace = json.loads((terminal.folder / "trace.json").read_text())
    assert trace["command"] == "trace"
    assert trace["identities_hold"] is True
    assert trace["trace"]["sample"] == "sample 3 of 16"
    assert trace["trace"]["steps"] == 5
    assert {c["label"] for c in trace["trace"]["prediction"]["classes"]} == {"ant", "bee", "cat"}
    assert trace["trace"]["inputs"]["attributions"][0]["names"] == list("abcdef")
    page = (terminal.folder / "page.html").read_text()
    assert "gradscope trace model.py --sample 3 --steps 5 --integrated-gradients" in page


def test_concise_is_one_line_a_section_and_quiet_prints_nothing_else(terminal) -> None:
    terminal.write(MODEL)
    done = terminal.run("trace", "model.py", "--format", "concise", "--quiet")
    assert done.returncode == 0
    assert [line.split(": ")[1] for line in done.stdout.splitlines()[:-1]] == [
        "forward", "prediction", "loss", "chain rule", "inputs", "update",
    ]  # fmt: skip


def test_exit_codes(terminal) -> None:
    terminal.write(MODEL)
    assert terminal.run("trace", "model.py", "--sample", "99").returncode == 2
    assert terminal.run("trace", "nothing.py").returncode == 2
    terminal.write("raise ValueError('not today')", "broken.py")
    broken = terminal.run("trace", "broken.py")
    assert broken.returncode == 3
    assert "not today" in broken.stderr


def test_check_explains_one_step_and_report_shows_it_again(terminal) -> None:
    terminal.write(MODEL)
    done = terminal.run(
        "check", "model.py", "--steps", "25", "--explain", "--run-dir", "run", "--no-try-fixes",
        "--fail-on", "never", "--report", "page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "one training step, taken apart" in done.stdout
    page = (terminal.folder / "page.html").read_text()
    assert 'id="explain"' in page
    assert "<h2>Chain rule</h2>" in page
    again = terminal.run("report", "run", "--explain", "--format", "json", "--quiet")
    trace = json.loads(again.stdout)["trace"]
    assert trace["steps"] == 25
    assert all(i["error"] <= i["limit"] for i in trace["identities"][:3])


def test_a_run_without_an_explanation_says_how_to_get_one(terminal) -> None:
    terminal.write(MODEL)
    terminal.run("check", "model.py", "--steps", "3", "--run-dir", "run", "--no-try-fixes")
    done = terminal.run("report", "run", "--explain")
    assert done.returncode == 2
    assert "gradscope check --explain" in done.stderr
