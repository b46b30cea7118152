"""Whole trials on a small sick training: what helps, what is a placebo, what goes wrong."""

import functools
import itertools
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.advise.arm import Start
from gradscope.advise.fix import Treatment
from gradscope.advise.treatments.modules import AddNorm
from gradscope.advise.treatments.places import Place
from gradscope.advise.treatments.steps import Rate
from gradscope.advise.trials import Limits, Option, Trials
from gradscope.diagnose.diagnosis import Diagnosis
from gradscope.diagnose.finding import Finding, Fix
from gradscope.observe.experiment.intervention import Intervention, NoOp
from gradscope.recording.reader import Recording

LIMITS = Limits(steps=40, seeds=3, budget=100)


class Deep(nn.Sequential):
    """Sigmoids that let no gradient through."""


def start(seed, depth=8):
    torch.manual_seed(1000 * seed)
    hidden = [nn.Linear(20, 32)] + [nn.Linear(32, 32) for _ in range(depth - 1)]
    layers = list(itertools.chain.from_iterable((layer, nn.Sigmoid()) for layer in hidden))
    model = Deep(*layers, nn.Linear(32, 5)) if depth > 2 else Deep(hidden[0], nn.Linear(32, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def run(steps):
        for _ in range(steps):
            x = torch.randn(64, 20)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :5].argmax(1)).backward()
            optimizer.step()

    return Start(run, roots=(model,))


def dead(seed):
    """A layer whose biases keep all its units off; one that trains well without them."""
    torch.manual_seed(1000 * seed)
    model = Deep(nn.Linear(20, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    nn.init.constant_(model[1].bias, -8.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def run(steps):
        for _ in range(steps):
            x = torch.randn(64, 20)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, :5].argmax(1)).backward()
            optimizer.step()

    return Start(run, roots=(model,))


def restless(seed):
    """Draws from the system: no two runs are alike."""
    made = start(seed)

    def run(steps):
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
        made.run(steps)

    return replace(made, run=run)


def broken(_seed):
    raise ValueError("the data are gone")


class Crashing(Intervention):
    def step_end(self, optimizer):
        self.applied = True
        raise RuntimeError("shapes do not fit")


class Dying(Intervention):
    def step_end(self, optimizer):
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Intervention):
    def step_end(self, optimizer):
        time.sleep(1000)


class Greedy(Intervention):
    def step_end(self, optimizer):
        torch.empty(2**45, dtype=torch.float64)


class Elsewhere(Intervention):
    """Finds nothing to change."""


class Shuffled(Intervention):
    def model(self, root):
        self.applied = True
        with torch.no_grad():
            for p in root.parameters():
                p.copy_(p.flatten()[torch.randperm(p.numel())].view_as(p))


class ZeroBiases(Intervention):
    """Removes the cause of ``dead``."""

    def model(self, root):
        self.applied = True
        nn.init.zeros_(root[1].bias)


NORMS = AddNorm("BatchNorm", [Place("Deep", str(i)) for i in range(0, 16, 2)])


def tried(*changes, prepare=start, limits=LIMITS, finding=None, told=None, direct=()):
    """The fixes of one finding after their trials, by name, and the diagnosis.

    ``direct`` are the positions of the changes that remove the cause.
    """
    finding = finding or Finding("GS101", "vanishing-gradient", "critical", "strong", "sick")
    fixes, options = [], []
    for number, change in enumerate(changes):
        fix = Fix(f"fix-{number}", f"fix {number}", "because", None, "idea")
        fixes.append(fix)
        treatment = change if isinstance(change, Treatment) else Treatment((change,))
        options.append((Option(fix, treatment, number in direct),))
    diagnosis = Diagnosis(Recording({}, {}), (finding.with_fixes(tuple(fixes)),))
    tell = told or (lambda *words: None)
    done = Trials(diagnosis, (tuple(options),), prepare, limits, tell).run()
    return {fix.name: fix.trial for fix in done.findings[0].fixes}, done


@pytest.fixture(scope="module")
def shown():
    """One trial of several fixes, the one that mends in the middle."""
    told = []
    state = torch.get_rng_state()
    trials, done = tried(
        Rate(3.0), Shuffled(), NORMS, Elsewhere(), Treatment(untried="an idea only"),
        told=lambda *words: told.append(words),
    )  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    return trials, done, told


def test_the_fix_that_mends_helps_over_three_seeds_and_comes_first(shown):
    trials, done, _ = shown
    trial = trials["fix-2"]
    assert (trial.status, trial.seeds, trial.steps) == ("helped", 3, 40)
    assert max(trial.loss_treated) < 0.8 * min(trial.loss_control)
    assert done.findings[0].fixes[0].name == "fix-2"
    assert done.mended.trial == trial


def test_the_fix_of_the_cause_goes_first_and_says_which_one_ended_lower():
    norm = AddNorm("BatchNorm", [Place("Deep", "1")])
    trials, done = tried(norm, ZeroBiases(), prepare=dead, direct={1})
    norms, cause = trials["fix-0"], trials["fix-1"]
    assert norms.status == cause.status == "helped"
    assert max(norms.loss_treated) < min(cause.loss_treated)
    assert [fix.name for fix in done.findings[0].fixes] == ["fix-1", "fix-0"]
    assert "it goes before fix-0, which ends lower, because it removes the cause" in cause.reason
    assert done.mended.trial == replace(cause, reason=done.mended.trial.reason)
    by_effect = [fix.name for fix in tried(norm, ZeroBiases(), prepare=dead)[1].findings[0].fixes]
    assert by_effect == ["fix-0", "fix-1"]


def test_the_control_is_the_training_itself(shown):
    trials, _, _ = shown
    losses = []
    made = start(0)
    hook = made.roots[0].register_forward_hook(
        lambda m, i, o: losses.append(F.cross_entropy(o, i[0][:, :5].argmax(1)).item())
    )
    made.run(40)
    hook.remove()
    assert list(trials["fix-2"].curves_control[0]) == pytest.approx(losses, rel=1e-6)


def test_the_gradient_that_reaches_the_first_layer_is_shown_before_and_after(shown):
    first = shown[0]["fix-2"].reach[0]
    assert first.module == "0"
    assert first.treated > 100 * first.control > 0


@pytest.mark.parametrize("name", ["fix-0", "fix-1"])
def test_what_does_not_mend_has_no_effect(shown, name):
    assert shown[0][name].status == "no-effect"


def test_what_was_not_tried_says_why(shown):
    trials = shown[0]
    assert (trials["fix-3"].status, trials["fix-4"].status) == ("not-tried", "not-tried")
    assert trials["fix-3"].reason == "the change found no place to act in this training"
    assert trials["fix-4"].reason == "an idea only"


def test_helped_comes_before_not_tried_and_that_before_no_effect(shown):
    order = [fix.trial.status for fix in shown[1].findings[0].fixes]
    assert order == ["helped", "not-tried", "not-tried", "no-effect", "no-effect"]


def test_each_training_is_told_with_its_fix_and_seed(shown):
    told = shown[2]
    assert told[0][:2] == ("control", 0)
    assert ("fix-2", 2) in [words[:2] for words in told]
    assert all(done < planned for _, _, done, planned in told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Crashing(), "RuntimeError: shapes do not fit"),
        (Dying(), "SIGKILL"),
        (Greedy(), "out of memory"),
    ],
)
def test_a_change_that_breaks_the_training_fails_and_the_others_are_tried(change, words):
    trials, _ = tried(change, NORMS)
    assert trials["fix-0"].status == "failed"
    assert words in trials["fix-0"].reason
    assert trials["fix-1"].status == "helped"


def test_a_change_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr("gradscope.advise.trials.LEAST", 1.0)
    trials, _ = tried(Hanging(), NORMS)
    assert trials["fix-0"].status == "failed"
    assert "it took more than" in trials["fix-0"].reason
    assert trials["fix-1"].status == "helped"


def test_a_budget_that_is_used_up_is_said(monkeypatch):
    trials, _ = tried(NORMS, limits=replace(LIMITS, budget=1e-3))
    assert trials["fix-0"].status == "not-tried"


def test_a_training_that_is_never_the_same_gives_no_verdict():
    trials, _ = tried(NORMS, prepare=restless)
    assert trials["fix-0"].status == "not-tried"
    assert "differ" in trials["fix-0"].reason


def test_a_training_that_cannot_be_prepared_gives_no_verdict():
    trials, _ = tried(NORMS, prepare=broken)
    assert trials["fix-0"].status == "not-tried"
    assert "the data are gone" in trials["fix-0"].reason


def test_a_training_that_learns_is_not_helped():
    trials, done = tried(Rate(10.0), prepare=functools.partial(start, depth=1))
    assert trials["fix-0"].status in ("no-effect", "hurt")
    assert done.mended is None


def test_a_hook_that_hands_on_is_the_control_bit_for_bit():
    trials, _ = tried(NoOp())
    assert trials["fix-0"].curves_treated[0] == trials["fix-0"].curves_control[0]
    assert trials["fix-0"].status == "no-effect"


def test_several_optimizers_give_no_verdict():
    trials, _ = tried(NORMS, prepare=two_optimizers)
    assert trials["fix-0"].status == "not-tried"
    assert "several optimizers" in trials["fix-0"].reason


def two_optimizers(seed):
    made = start(seed)
    model = made.roots[0]
    halves = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:4], model[4:])]

    def run(steps):
        for _ in range(steps):
            x = torch.randn(64, 20)
            model.zero_grad()
            F.cross_entropy(model(x), x[:, :5].argmax(1)).backward()
            for half in halves:
                half.step()

    return replace(made, run=run)
