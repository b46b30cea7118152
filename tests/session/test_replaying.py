"""Origins that are found by running code again: a step of the user's own, or the whole script."""

import json

import pytest
import torch
from torch import nn

import gradscope
from gradscope.recording.load import load_run
from gradscope.running.script import Script
from gradscope.running.seeds import random_states_kept
from gradscope.session import replaying
from gradscope.session.replaying import put_states, script_again, start_states, unexplained

PARTS = """
import random
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.head = nn.Linear(8, 2)

    def score(self, h, flag):
        return self.head(h) / flag  # here


net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for step in range(8):
    x = torch.randn(6, 4) + random.random() * np.random.rand()
    flag = torch.ones(6, 1)
    flag[4] = 0.0 if step == 5 else 1.0
    # only parts of the model are called: no call of it can be replayed
    loss = (net.score(net.body(x), flag) - 1).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
open("written.txt", "w").write("by the training")
"""


def test_run_finds_the_line_by_running_the_script_again(python, tmp_path):
    (tmp_path / "parts.py").write_text(PARTS, encoding="utf-8")
    words = ["-m", "gradscope", "run", "--run-dir", "run", "--quiet", "--output", "o.json"]
    done = python.run(*words, "parts.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    (finding,) = [f for f in document["findings"] if f["code"] == "GS201"]
    origin = finding["origin"]
    line = 1 + PARTS[: PARTS.index("# here")].count("\n")
    assert (origin["operation"], origin["phase"]) == ("div", "forward")
    assert origin["location"] == {"file": "parts.py", "line": line}
    # no seed was set: the states that the script found are those of the second run
    assert "found by running the script again up to step 5" in origin["reason"]
    assert [o["at"] for o in origin["operands"]][1] == "0"
    assert (tmp_path / "written.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "o.json", "parts.py", "run", "written.txt",
    ]  # fmt: skip


def watched(folder, **options):
    """A run whose step 3 divides by 0 where no call of the model can be replayed."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scope = gradscope.watch(model, run_dir=folder, optimizer=optimizer, **options)

    def step(bad):
        flag = torch.ones(4, 1)
        flag[1] = 0.0 if bad else 1.0
        optimizer.zero_grad()
        loss = (model["b"](model["a"](torch.ones(4, 3))) / flag).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return scope, step, model, optimizer


def test_replay_of_one_step_names_the_line_and_changes_nothing(tmp_path):
    scope, step, model, optimizer = watched(tmp_path / "run")
    with scope:
        for _ in range(3):
            step(bad=False)
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        state = repr(optimizer.state_dict())
        random = torch.get_rng_state()
        origin = scope.replay(lambda: step(bad=True))
        assert scope.replay(lambda: step(bad=False)) is None
        assert (origin.operation, origin.phase, origin.module) == ("div", "forward", "")
        assert origin.location.line == step.__code__.co_firstlineno + 4
        assert all(torch.equal(value, kept[n]) for n, value in model.state_dict().items())
        assert repr(optimizer.state_dict()) == state
        assert torch.equal(torch.get_rng_state(), random)
        assert scope.steps == 3, "a replay is no step"


def test_a_replay_in_the_alarm_explains_it_in_the_report(tmp_path):
    found = []
    scope, step, _, _ = watched(
        tmp_path / "run", on_alarm=lambda record: found.append(scope.replay(lambda: step(True)))
    )
    with scope:
        for number in range(4):
            step(bad=number == 3)
    assert found[0].operation == "div"
    (finding,) = [f for f in scope.diagnose() if f.code == "GS201"]
    assert finding.origin.operation == "div"
    assert finding.origin.location.line == step.__code__.co_firstlineno + 4


def test_what_is_explained_or_takes_too_long_is_not_run_again(tmp_path, monkeypatch):
    scope, step, _, _ = watched(tmp_path / "run")
    with scope:
        for number in range(4):
            step(bad=number == 3)
    wanted = unexplained(load_run(tmp_path / "run"))
    assert (wanted.step, sorted(wanted.losses)) == (3, [0, 1, 2, 3])
    monkeypatch.setattr(replaying, "SECONDS", 0.0)
    script = Script(str(tmp_path / "none.py"))
    record = script_again(tmp_path / "run", script, start_states(), tmp_path)
    assert record["origin"]["phase"] is None
    assert "scope.replay(step_fn)" in record["origin"]["reason"]

    healthy, step, _, _ = watched(tmp_path / "healthy")
    with healthy:
        step(bad=False)
    assert unexplained(load_run(tmp_path / "healthy")) is None
    assert script_again(tmp_path / "healthy", script, start_states(), tmp_path) is None


@pytest.mark.parametrize("draw", ["torch", "numpy", "python"])
def test_random_states_survive_json(draw):
    import random

    import numpy as np

    draws = {
        "torch": lambda: torch.rand(3).tolist(),
        "numpy": lambda: np.random.randn(3).tolist(),  # noqa: NPY002
        "python": lambda: random.gauss(0, 1),
    }
    with random_states_kept():
        np.random.randn()  # noqa: NPY002  an odd number: half of a pair is kept
        states = json.loads(json.dumps(start_states()))
        first = draws[draw]()
        draws[draw]()
        put_states(states)
        assert draws[draw]() == first
