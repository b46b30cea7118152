"""``watch``: around a loop of the user's own."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import GradscopeError


def test_it_records_and_finds_while_attached_and_afterwards(forgetful):
    with gradscope.watch(forgetful.model, every=1, run_dir="runs/first") as scope:
        forgetful.steps(30)
        assert scope.attached
        assert len(scope.recording.steps) == 30
        assert [finding.code for finding in scope.diagnose()] == ["GS403"]
        forgetful.steps(30)
    assert not scope.attached
    assert len(scope.recording.steps) == scope.steps == 60
    found = scope.diagnose()
    assert [finding.code for finding in found] == ["GS403"]
    assert found[0].fixes
    assert 0 < scope.overhead < 1
    assert scope.folder == Path("runs/first").absolute()
    assert len(gradscope.load_run("runs/first").steps) == 60


def test_the_report_has_the_format_of_its_suffix(forgetful):
    with gradscope.watch(forgetful.model, every=1) as scope:
        forgetful.steps(30)
    assert scope.report("report.html").stat().st_size > 20_000
    scope.report("deep/er/report.json")
    document = json.loads(Path("deep/er/report.json").read_text())
    assert document["command"] == "watch"
    assert document["exit_code"] == 0
    assert document["findings"][0]["code"] == "GS403"
    page = scope._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "GS403" in page
    assert not [p.name for p in Path.cwd().iterdir() if "unfinished" in p.name]


def test_the_training_is_bit_identical(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, watched = make(), make()
    torch.manual_seed(5)
    expected, state = plain.steps(20), torch.get_rng_state()
    torch.manual_seed(5)
    with gradscope.watch(watched.model, every=1):
        assert watched.steps(20) == expected
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_detach_leaves_no_trace_also_after_an_exception(training):
    untouched = {name: sorted(vars(m)) for name, m in training.model.named_modules()}
    with pytest.raises(ZeroDivisionError), gradscope.watch(training.model) as scope:
        training.steps_then(ZeroDivisionError("mine"))
    assert {name: sorted(vars(m)) for name, m in training.model.named_modules()} == untouched
    for module in training.model.modules():
        hooks = [v for k, v in vars(module).items() if "hooks" in k and v]
        assert hooks == []
    assert scope.recording.run["failed"] == "the training failed at step 4: ZeroDivisionError: mine"


def test_a_watched_model_copies_and_pickles(training):
    with gradscope.watch(training.model):
        training.steps(2)
        twin = copy.deepcopy(training.model)
        pickled = pickle.loads(pickle.dumps(training.model))
    for other in (twin, pickled):
        assert torch.equal(other[0].weight, training.model[0].weight)


def test_watching_again_gives_the_same_scope(training):
    """A notebook's cell is run twice."""
    first = gradscope.watch(training.model, every=2)
    assert gradscope.watch(training.model, every=2) is first
    with pytest.raises(GradscopeError, match="watched already, with another every"):
        gradscope.watch(training.model, every=3)
    with pytest.raises(GradscopeError, match="together with others"):
        gradscope.watch(training.model, nn.Linear(2, 2), every=2)
    first.detach()
    second = gradscope.watch(training.model, every=3)
    assert second is not first
    second.detach()
    second.detach()


def test_several_models_are_named_by_their_variables(training):
    generator, critic = nn.Linear(4, 3), nn.Linear(3, 1)
    makers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (generator, critic)]
    with gradscope.watch(generator, critic, every=1) as scope:
        for optimizer in makers * 2:
            optimizer.zero_grad()
            critic(generator(torch.randn(8, 4))).mean().backward()
            optimizer.step()
    names = set(scope.recording.parameter_names.values())
    assert names == {"generator.weight", "generator.bias", "critic.weight", "critic.bias"}


def test_models_that_are_attributes_are_named_too(training):
    class Trainer:
        def __init__(self):
            self.actor, self.critic = nn.Linear(4, 3), nn.Linear(3, 1)

        def run(self):
            params = [*self.actor.parameters(), *self.critic.parameters()]
            optimizer = torch.optim.SGD(params, lr=0.1)
            with gradscope.watch(self.actor, self.critic, every=1) as scope:
                self.critic(self.actor(torch.randn(8, 4))).mean().backward()
                optimizer.step()
            return scope

    names = set(Trainer().run().recording.parameter_names.values())
    assert names == {"actor.weight", "actor.bias", "critic.weight", "critic.bias"}


def test_gradscope_0_switches_it_off_and_says_so(forgetful, monkeypatch, capsys):
    monkeypatch.setenv("GRADSCOPE", "0")
    with gradscope.watch(forgetful.model) as scope:
        losses = forgetful.steps(3)
    assert len(losses) == 3
    assert "switched off by GRADSCOPE=0" in capsys.readouterr().err
    assert "switched off" in repr(scope)
    assert scope.diagnose() == []
    assert len(scope.recording.steps) == 0
    assert "switched off" in " ".join(scope.recording.limits)
    assert scope.overhead is None
    assert not Path(".gradscope").exists()
    assert "switched off" in scope.report("off.md").read_text()


def test_ctrl_c_is_recorded(training):
    with pytest.raises(KeyboardInterrupt), gradscope.watch(training.model) as scope:
        training.steps_then(KeyboardInterrupt())
    assert scope.recording.run["interrupted"] == "interrupted at step 4"


def test_a_taken_folder_is_refused(training):
    with gradscope.watch(training.model, run_dir="run"):
        training.steps(1)
    with pytest.raises(GradscopeError, match="run"):
        gradscope.watch(training.model, run_dir="run")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((3,), {}, "watch() takes modules, not a int"),
        ((), {"updates": "all"}, "updates cannot be 'all'"),
        ((), {"nonfinite": "on"}, "nonfinite cannot be 'on'"),
        ((), {"select": "XY"}, "XY"),
    ],
)
def test_wrong_arguments_are_told_at_once(training, arguments, options, words):
    with pytest.raises(GradscopeError) as caught:
        gradscope.watch(training.model, *arguments, **options)
    assert words in str(caught.value)
    assert not Path(".gradscope").exists()


def test_a_scope_that_nobody_closes_is_finished_at_exit(python, tmp_path):
    (tmp_path / "forgets.py").write_text(
        "import torch, gradscope\n"
        "m = torch.nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), 0.1)\n"
        "gradscope.watch(m, run_dir='run')\n"
        "for _ in range(3):\n    m(torch.ones(4, 2)).sum().backward(); o.step(); o.zero_grad()\n"
    )
    python.run("forgets.py", folder=tmp_path).check_returncode()
    recording = gradscope.load_run(tmp_path / "run")
    assert len(recording.steps) == 3
    assert recording.run["finished"]


def test_neither_watching_nor_judging_moves_a_random_state(tmp_path):
    """In a fresh process: the first use imports libraries, and one of them draws a number."""
    code = """
import random, numpy, torch, gradscope
from torch import nn
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
with gradscope.watch(model, run_dir="run") as scope:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scope.diagnose()
    scope.report("report.html")
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
assert before == after
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_second_run_replaces_the_first_only_when_asked(tmp_path):
    def run(**options):
        model = nn.Linear(2, 1)
        with gradscope.watch(model, run_dir=tmp_path / "run", **options) as scope:
            model(torch.ones(1, 2)).sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        return scope

    run()
    with pytest.raises(gradscope.errors.RunFolderError, match="holds a recording"):
        run()
    assert len(run(overwrite=True).recording.steps) == 1
