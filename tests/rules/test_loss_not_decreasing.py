import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Synthetic, falling

from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.loss_not_decreasing import LossNotDecreasing

rule = LossNotDecreasing()


def check(values, baseline=TRIVIAL, **kwargs):
    made = Synthetic(len(values))
    made.loss(values, baseline, **kwargs)
    return rule.check(made.build(), None)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def flat(level, steps=100):
    return level * TRIVIAL + np.random.default_rng(0).normal(0, 0.005, steps)


@pytest.mark.parametrize(("level", "kind"), [(0.96, Findings), (0.94, Passed)])
def test_the_limit(level, kind):
    assert isinstance(check(flat(level)), kind)


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(flat(1.0, steps))).severity == severity


def test_before_twenty_steps_it_is_undecided():
    assert isinstance(check(flat(1.0, 19)), Undecided)


@pytest.mark.parametrize("share", [1e-4, 1.0, 1e4])
def test_the_scale_of_the_loss_is_no_matter(share):
    assert isinstance(check(flat(1.0), share=share), Findings)
    assert isinstance(check(falling(), share=share), Passed)


def test_a_noisy_regression_that_has_learned_all_there_is_is_quiet():
    rng = np.random.default_rng(0)
    # the mean over a batch of 64 squared errors scatters by sqrt(2 / 64)
    values = 0.9 * (1 + math.sqrt(2 / 64) * rng.normal(size=200))
    assert isinstance(check(values, 1.0), Passed)
    assert isinstance(check(values / 0.9, 1.0), Findings)


def test_what_it_says():
    finding = only(check(flat(1.0)))
    assert finding.kind == "stuck"
    assert finding.location == Location("train.py", 7)
    assert "cause is not identified" in finding.summary
    assert finding.modules == ()


def test_a_converged_start_is_quiet():
    assert isinstance(check(flat(0.02)), Passed)


def test_one_that_still_falls_is_slow_not_stuck():
    values = np.linspace(1.1, 0.95, 100) * TRIVIAL
    assert isinstance(check(values), Passed)


def test_a_constant_loss_needs_no_baseline():
    finding = only(check(np.full(100, 1.25), None))
    assert (finding.kind, finding.severity) == ("constant", "warning")


def test_a_flat_custom_loss_is_undecided():
    outcome = check(flat(0.3), None)
    assert isinstance(outcome, Undecided)
    assert "not known for this loss" in outcome.missing


def test_a_loss_that_rises():
    finding = only(check(np.repeat([1.0, 3.0], 50) * TRIVIAL))
    assert finding.kind == "diverged"
    values = falling(100)
    values[50:] = math.nan
    assert only(check(values)).summary == "The loss is no longer finite."
