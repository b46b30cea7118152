import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Activation, Synthetic, chain, falling

from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.exploding_gradient import ExplodingGradient

rule = ExplodingGradient()


def check(made):
    return rule.check(made.build(), ExplodingGradient.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def deep(decades, **kwargs):
    """Five layers over which the gradient grows by ``decades`` toward the input."""
    return chain(5, weight_gain=10 ** (decades / 4), kind=Activation.RELU, **kwargs)


def run(norms, losses):
    made = Synthetic(len(norms))
    _, quiet = made.layer("0")
    _, loud = made.layer("1")
    made.gradient(quiet, 1e-3)
    made.gradient(loud, norms)
    made.loss(losses)
    return made


@pytest.mark.parametrize(("decades", "kind"), [(1.81, Findings), (1.79, Passed)])
def test_growth_over_depth_at_the_start(decades, kind):
    assert isinstance(check(deep(decades)), kind)


@pytest.mark.parametrize(
    ("decades", "first", "kind"),
    [(1.1, 1.26, Findings), (1.1, 1.24, Passed), (0.9, 1.26, Passed)],
)
def test_less_growth_counts_beside_a_large_first_loss(decades, first, kind):
    loss = np.full(100, 1.0 * TRIVIAL)
    loss[:3] = first * TRIVIAL
    assert isinstance(check(deep(decades, loss=loss)), kind)


@pytest.mark.parametrize(("decades", "kind"), [(3.1, Findings), (2.9, Passed)])
def test_growth_of_the_outputs_over_depth_counts_too(decades, kind):
    made = Synthetic(100)
    for index in range(5):
        module, _ = made.layer(f"{index}")
        made.flow(module, 1.0, 1.0, output=10 ** (decades * index / 4))
    made.loss(TRIVIAL)
    assert isinstance(check(made), kind)


def test_only_the_first_step_tells_of_the_initialisation():
    """A learning rate that throws the weights in the first step leaves large gains from then on."""
    made = deep(0.0)
    made._activations = [
        row | ({"sum_sq": row["sum_sq"] * 1e8} if row["step"] and row["module"] == 1 else {})
        for row in made._activations
    ]
    assert isinstance(check(made), Passed)


def test_the_number_that_decides_is_the_one_with_the_distance():
    """A norm beyond its limit passed because the loss fell: the loss tells how far away it is."""
    norms, losses = np.ones(100), np.full(100, TRIVIAL)
    norms[50:], losses[-5:] = 19.4, 0.35 * TRIVIAL
    outcome = check(run(norms, losses))
    assert outcome.margin == pytest.approx(1.4 / 0.35, rel=0.01)
    assert outcome.measured == (
        "over the run the gradient's norm comes to 19.4x its first size, but the loss only to "
        "0.35x, the limit is 1.4x"
    )
    outcome = check(run(np.r_[np.ones(50), np.full(50, 4.0)], losses))
    assert outcome.margin == pytest.approx(2.5)
    assert outcome.measured == (
        "over the run the gradient's norm comes to 4x its first size, the limit is 10x"
    )


def test_the_nearest_of_the_growths_tells_the_distance():
    made = Synthetic(100)
    for index in range(5):
        module, _ = made.layer(f"{index}")
        made.flow(module, 1.0, 1.0, output=10 ** (2.5 * index / 4))
    made.loss(TRIVIAL)
    outcome = check(made)
    assert outcome.margin == pytest.approx(10**0.5)
    assert outcome.measured.startswith(
        "at the start, over the depth, the outputs come to at most 316x their first size, the "
        "limit is 1,000x; "
    )


def test_what_it_says_of_the_initialisation():
    finding = only(check(deep(4.0)))
    assert finding.kind == "initialization"
    assert finding.modules == ("0",)
    assert finding.parameters == ("0.weight",)
    assert finding.also == ("1", "2", "3", "4")
    assert finding.severity == "critical"
    assert finding.first_step == 0


def test_a_training_that_learns_all_the_same_is_quiet():
    assert isinstance(check(deep(4.0, loss=falling())), Passed)
    grown = run(np.linspace(1, 50, 100), falling())
    assert isinstance(check(grown), Passed)


@pytest.mark.parametrize(("growth", "kind"), [(10.1, Findings), (9.9, Passed)])
def test_growth_of_the_norm_over_the_run(growth, kind):
    norms = np.repeat([1.0, growth], 50)
    losses = np.repeat([TRIVIAL, 2 * TRIVIAL], 50)
    assert isinstance(check(run(norms, losses)), kind)


@pytest.mark.parametrize(("growth", "kind"), [(1.41, Findings), (1.39, Passed)])
def test_the_loss_must_rise_too(growth, kind):
    losses = np.repeat([TRIVIAL, growth * TRIVIAL], 50)
    assert isinstance(check(run(np.repeat([1.0, 100.0], 50), losses)), kind)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_absolute_norms_do_not_count(scale):
    assert isinstance(check(run(np.full(100, scale), np.full(100, TRIVIAL))), Passed)


def test_what_it_says_of_the_learning_rate():
    finding = only(check(run(1.1 ** np.arange(100), TRIVIAL * 1.1 ** np.arange(100))))
    assert finding.kind == "learning-rate"
    assert finding.modules == ("1",)
    assert finding.parameters == ("1.weight",)
    # oracle: the first norm above ten times the median of the first five, 1.1**2
    assert finding.first_step == math.ceil(2 + math.log(10) / math.log(1.1))


def test_one_spike_is_another_rules_business():
    norms, losses = np.ones(100), np.full(100, TRIVIAL)
    norms[50], losses[50] = 1e6, 1e3
    assert isinstance(check(run(norms, losses)), Passed)


def test_growth_that_ends_in_nan_is_found_at_once():
    made = run(10.0 ** np.arange(6), TRIVIAL * 10.0 ** np.arange(6))
    made.alarm(5, "loss-nonfinite")
    finding = only(check(made))
    assert finding.severity == "critical"
    assert finding.last_step == 5
    assert {e.name: e.value for e in finding.evidence}["first non-finite step"] == 5


def test_nan_without_growth_is_not_this_rule():
    made = run(np.ones(60), np.full(60, TRIVIAL))
    made.alarm(30, "loss-nonfinite")
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(("decades", "kind"), [(4.1, Findings), (1.5, Passed)])
def test_a_first_forward_pass_that_overflows(decades, kind):
    made = Synthetic(10)
    for index in range(5):
        module, weight = made.layer(f"{index}")
        made.gradient(weight, math.nan)
        made.flow(module, 1.0, output=10 ** (decades * index / 4))
    made.loss(np.full(10, math.inf))
    made.alarm(0, "loss-nonfinite")
    assert isinstance(check(made), kind)


def test_through_time():
    made = Synthetic(100)
    rnn = made.module("rnn", "RNN")
    weight = made.parameter("rnn.weight_hh_l0", rnn)
    made.gradient(weight, 1.1 ** np.arange(100))
    made.loss(TRIVIAL * 1.1 ** np.arange(100))
    finding = only(check(made))
    assert finding.kind == "through-time"
    assert finding.modules == ("rnn",)


def test_a_game_of_two_optimizers_is_undecided():
    made = run(1.1 ** np.arange(100), TRIVIAL * 1.1 ** np.arange(100))
    made.each_step(
        optimizer=[i % 2 for i in range(100)], site=[f"gan.py:{i % 2 + 1}" for i in range(100)]
    )
    assert isinstance(check(made), Undecided)


def test_nothing_recorded_is_undecided():
    made = Synthetic(50)
    made.loss(TRIVIAL)
    assert isinstance(check(made), Undecided)
