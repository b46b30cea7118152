import math

import numpy as np
import pytest
from synthetic import TRIVIAL, Activation, Synthetic, chain, falling

from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.diagnose.wording import number
from gradscope.rules.vanishing_gradient import Options, VanishingGradient

rule = VanishingGradient()


def check(made, options=VanishingGradient.options):
    return rule.check(made.build(), options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def stack(decades, **kwargs):
    """Six layers that lose ``decades`` in all, equally in weights and activations."""
    gain = 10 ** (-decades / 10)
    return chain(6, weight_gain=gain, activation_gain=gain, **kwargs)


@pytest.mark.parametrize(("decades", "kind"), [(2.01, Findings), (1.99, Passed)])
def test_the_limit_of_two_decades(decades, kind):
    assert isinstance(check(stack(decades)), kind)


def test_a_gradient_that_grows_is_not_called_a_small_share():
    outcome = check(chain(5, weight_gain=2.0, kind=Activation.RELU))
    assert isinstance(outcome, Passed)
    assert outcome.measured == "nothing is lost on the way to the input; the limit is 0.01"
    assert outcome.margin == pytest.approx(100.0)


def test_the_margin_is_the_factor_to_the_limit():
    outcome = check(stack(1.0))
    assert outcome.margin == pytest.approx(10.0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_loss_is_no_matter(scale):
    assert isinstance(check(stack(3.0, end=scale)), Findings)
    assert isinstance(check(stack(1.0, end=scale)), Passed)


@pytest.mark.parametrize(
    ("steps", "severity"), [(19, None), (20, "note"), (49, "note"), (50, "critical")]
)
def test_from_when_on(steps, severity):
    outcome = check(stack(4.0, steps=steps))
    if severity is None:
        assert isinstance(outcome, Undecided)
        assert "19 steps seen, 20 are needed" in outcome.missing
    else:
        assert only(outcome).severity == severity


def test_a_model_that_learns_is_quiet_whatever_its_gradients():
    outcome = check(stack(8.0, loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


def test_a_converged_start_is_quiet_with_and_without_a_baseline():
    noise = 0.05 + np.random.default_rng(0).normal(0, 0.005, 100)
    assert isinstance(check(stack(8.0, loss=noise)), Passed)
    made = stack(8.0)
    made._losses.clear()
    made.loss(0.5 + noise, None)
    assert isinstance(check(made), Undecided)


def test_what_the_finding_says():
    finding = only(check(chain(6, weight_gain=0.58, activation_gain=0.25)))
    assert finding.modules == ("0",)
    assert finding.parameters == ("0.weight",)
    assert finding.also == ("1", "2", "3", "4")
    assert finding.location == Location("model.py", 11)
    assert finding.kind == "activation-slope"
    assert (finding.first_step, finding.last_step) == (0, 99)
    assert finding.confidence == "strong"
    values = {e.name: e.value for e in finding.evidence}
    assert values["gradient lost on the way to the input"] == pytest.approx(
        -5 * math.log10(0.58 * 0.25)
    )
    assert "`0`" in finding.summary
    assert "6.4e-5" in finding.summary
    assert "72 %" in finding.causes[0]
    # a reader can divide the two norms and gets what the summary says
    small, large = (
        values["gradient norm at the output of 0"],
        max(
            value
            for name, value in values.items()
            if name.startswith("gradient norm at the output")
        ),
    )
    assert number(small / large) in finding.summary
    assert 10 ** -values["gradient lost on the way to the input"] == pytest.approx(small / large)


@pytest.mark.parametrize(
    ("weight", "activation", "text"),
    [
        (1.3, 0.2, "all of it is lost in the activations' slopes; the weights give back 0.6"),
        (0.2, 1.3, "all of it is lost in the weights; the activations' slopes give back 0.6"),
        (1.0, 0.2, "100 % of it is lost in the activations' slopes, 0 % in the weights"),
    ],
)
def test_a_part_that_amplifies_gives_back(weight, activation, text):
    finding = only(check(chain(6, weight_gain=weight, activation_gain=activation)))
    assert text in finding.causes[0]


def test_decades_without_a_pooling_are_named_so():
    made = Synthetic(100)
    first, _ = made.layer("0")
    pool = made.module("pool", "AdaptiveAvgPool2d")
    second, _ = made.layer("1")
    head, _ = made.layer("head")
    made.flow(first, 1e-6)
    made.flow(pool, 1e-3, 1e-6)
    made.flow(second, 1.0, 1e-3)
    made.flow(head, 1.0, 1.0)
    made.loss(TRIVIAL)
    named = {e.name: e.value for e in only(check(made)).evidence}
    row = "gradient lost in weights and activations, without poolings and the like"
    assert named[row] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("weight", "activation", "layers", "kind"),
    [
        (0.9, 0.2, 6, "activation-slope"),
        (0.2, 0.9, 6, "small-weights"),
        (0.8, 0.8, 16, "depth"),
    ],
)
def test_the_kind_is_the_larger_part(weight, activation, layers, kind):
    made = chain(layers, weight_gain=weight, activation_gain=activation)
    assert only(check(made)).kind == kind


def test_a_saturated_output_activation():
    made = Synthetic(100)
    first, _ = made.layer("0")
    second, _ = made.layer("1")
    out = made.module("out", "Sigmoid", activation=Activation.SIGMOID)
    made.flow(first, 1e-6)
    made.flow(second, 1e-6, 1e-6)
    made.flow(out, 1.0, 1e-6)
    made.loss(TRIVIAL)
    finding = only(check(made))
    assert finding.kind == "saturated-loss"
    assert finding.modules == ("out",)


def test_one_layer_with_most_of_the_loss_is_the_cause():
    made = Synthetic(100)
    for index, (at_output, at_input) in enumerate(
        [(1e-4, None), (1e-4, 1e-4), (1.0, 1e-4), (1, 1)]
    ):
        module, _ = made.layer(f"{index}")
        made.flow(module, at_output, at_input)
    made.loss(TRIVIAL)
    finding = only(check(made))
    assert finding.modules == ("2",)
    assert set(finding.also) == {"0", "1"}
    assert "lost in `2`" in finding.summary


def test_a_pooling_over_many_positions_loses_nothing():
    made = Synthetic(100)
    first, _ = made.layer("0")
    pool = made.module("pool", "AdaptiveAvgPool2d")
    head, _ = made.layer("head")
    made.flow(first, 1e-3)
    made.flow(pool, 1.0, 1e-3)
    made.flow(head, 1.0, 1.0)
    made.loss(TRIVIAL)
    assert isinstance(check(made), Passed)


def test_too_unsteady_is_tentative_and_a_note():
    made = Synthetic(100)
    first, _ = made.layer("0")
    second, _ = made.layer("1")
    made.flow(first, np.where(np.arange(100) % 5 == 0, 1.0, 1e-4))
    made.flow(second, 1.0, np.where(np.arange(100) % 5 == 0, 1.0, 1e-4))
    made.loss(TRIVIAL)
    finding = only(check(made))
    assert (finding.severity, finding.confidence) == ("note", "tentative")
    assert only(check(made, Options(steady=0.8))).confidence == "strong"


def test_small_gains_that_a_jump_left_behind_are_tentative():
    late = np.arange(100) >= 50
    made = Synthetic(100)
    first, _ = made.layer("0")
    second, _ = made.layer("1")
    made.flow(first, np.where(late, 1e-4, 1.0))
    made.flow(second, 1.0, np.where(late, 1e-4, 1.0))
    loss = np.full(100, TRIVIAL)
    loss[10:20] = 10 * TRIVIAL
    made.loss(loss)
    assert only(check(made)).confidence == "tentative"
    made._losses.clear()
    made.loss(TRIVIAL)
    assert only(check(made)).confidence == "strong"


def test_a_zero_initialised_branch_and_a_head_that_begins_at_zero_are_quiet():
    made = Synthetic(100)
    stem, _ = made.layer("stem")
    made.flow(stem, np.where(np.arange(100) == 0, 0.0, 1.0))
    for index in range(6):
        branch, _ = made.layer(f"{index}.branch")
        made.flow(branch, 1e-12, 1e-12)
    head, _ = made.layer("head")
    made.flow(head, 1.0, np.where(np.arange(100) == 0, 0.0, 1.0))
    made.loss(TRIVIAL)
    assert isinstance(check(made), Passed)


def test_one_layer_is_not_deep():
    assert isinstance(check(chain(1)), NotApplicable)
