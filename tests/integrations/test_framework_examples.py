"""The frameworks' examples, run as scripts on real digits: each learns and is found healthy."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import gradscope

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
STEPS = {
    "digits_lightning": 75,  # 1,797 digits in batches of 64, two to a step, 5 epochs
    "digits_transformers": 100,
    "digits_accelerate": 116,  # batches of 32, two to a step, 4 epochs
    "digits_skorch": 116,  # batches of 64, 4 epochs
    "digits_ignite": 116,
}
"""Optimizer steps of each, by counting."""
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


@pytest.mark.parametrize("name", STEPS)
def test_an_example_runs_and_writes_its_report(name, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--run-dir", "run", "--report", "report.html"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    found = re.search(r"^(\d+) steps, (\d+) findings$", said, re.M)
    assert found, said
    recording = gradscope.load_run("run")
    assert int(found[1]) == len(recording.steps) == STEPS[name]
    assert int(found[2]) == 0
    losses = recording.steps["loss"]
    assert losses.tail(10).mean() < 0.5 * losses.head(3).mean(), "it learns"
    assert recording.limits == ()
    assert (folder / "report.html").stat().st_size > 20_000


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(STEPS)
