"""The pytest plugin, in a pytest of its own with the strictest settings."""

import subprocess
import sys

from gradscope.report.formats import render
from gradscope.session import from_folder

TESTS = """
import torch
from torch import nn

torch.manual_seed(0)
X = torch.randn(64, 20)
BATCH = X, X[:, :5].argmax(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def broken():
    return nn.Sequential(nn.Linear(20, 5), Log())


def test_trains(gradscope):
    gradscope.assert_trainable(network(), BATCH, nn.CrossEntropyLoss(), steps=60)


def test_breaks(gradscope):
    gradscope.assert_trainable(broken(), BATCH, nn.CrossEntropyLoss(), steps=5)


def test_known_fault(gradscope):
    gradscope.assert_trainable(
        broken(), BATCH, nn.CrossEntropyLoss(), steps=5, ignore=["GS201"]
    )
"""


def test_a_model_is_a_unit_test(folder):
    (folder / "test_model.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nstrict = true\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--basetemp", "kept", "-p", "no:cacheprovider"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    assert "1 failed" in result.stdout
    assert "Sequential does not train well" in result.stdout
    run = folder / "kept" / "test_breaks0" / "gradscope-1"
    assert f"report: gradscope report {run}" in result.stdout
    # the text is that of the command line, line for line
    text = render(from_folder(run), "full")
    shown = [line.removeprefix("E").strip() for line in result.stdout.splitlines()]
    missing = [line for line in text.splitlines() if line.strip() and line.strip() not in shown]
    assert missing == []
    assert "session/trainable.py" not in result.stdout, "the traceback ends at the user's line"


def test_the_plugin_costs_a_pytest_without_it_nothing():
    code = (
        "import sys; import gradscope.integrations.pytest_plugin; "
        "print([m for m in ('torch', 'numpy', 'pandas', 'rich', 'click') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
