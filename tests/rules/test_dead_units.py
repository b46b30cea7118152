import numpy as np
import pytest
from synthetic import TRIVIAL, Activation, Role, Synthetic, falling

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.dead_units import DeadUnits

rule = DeadUnits()
UNITS = 20


def check(made):
    return rule.check(made.build(), DeadUnits.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def net(dead, *, steps=100, loss=TRIVIAL, since=0, **kwargs):
    """Two layers; ``dead`` of the first activation's units are never active from ``since`` on."""
    made = Synthetic(steps)
    made.layer("0")
    first = made.module("1", "ReLU", activation=Activation.RELU)
    made.layer("2")
    second = made.module("3", "ReLU", activation=Activation.RELU)
    made.layer("4")
    active = np.ones((steps, UNITS))
    active[since:, :dead] = 0
    made.units(first, active, **kwargs)
    made.units(second, np.ones(UNITS), **kwargs)
    made.loss(loss)
    return made


@pytest.mark.parametrize(
    ("dead", "severity"),
    [(20, "critical"), (19, "warning"), (18, "warning"), (17, "note"), (10, "note"), (9, None)],
)
def test_severity_by_share(dead, severity):
    outcome = check(net(dead))
    if severity is None:
        assert isinstance(outcome, Passed)
        assert outcome.margin == pytest.approx(0.5 / (dead / UNITS))
    else:
        finding = only(outcome)
        assert finding.severity == severity
        limit = next(e.limit for e in finding.evidence if e.name == "share of dead units")
        assert limit == (0.5 if severity == "note" else 0.9)


def test_a_training_that_learns_is_quiet():
    outcome = check(net(20, loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


def test_half_of_the_outputs_zero_is_no_dead_unit():
    steps, made = 100, net(0)
    rng = np.random.default_rng(0)
    made._units.clear()
    made._blob = b""
    # each unit is active in one batch of two, as in any ReLU net, and all are alive
    made.units(2, rng.random((steps, UNITS)) < 0.5)
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "critical")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(net(20, steps=steps))).severity == severity


@pytest.mark.parametrize(
    ("steps", "positions", "kind"),
    [(20, 50, Findings), (20, 49, Undecided), (19, 1000, Undecided)],
)
def test_the_window_must_hold_20_batches_and_1000_positions(steps, positions, kind):
    assert isinstance(check(net(18, steps=steps, positions=positions)), kind)


@pytest.mark.parametrize(
    ("dead", "batches", "kind"), [(20, 5, Findings), (20, 4, Undecided), (19, 5, Undecided)]
)
def test_a_layer_that_is_dead_as_a_whole_needs_five_batches(dead, batches, kind):
    made = net(dead)
    made._units = [row for row in made._units if row["step"] % 10 == 9 and row["step"] >= 50]
    made._units = [row for row in made._units if row["step"] < 50 + 10 * batches]
    assert isinstance(check(made), kind)


def test_what_it_says():
    finding = only(check(net(20)))
    assert finding.kind == "initialization"
    assert finding.modules == ("1",)
    assert finding.parameters == ("0.weight",)
    assert finding.also == ("0",)
    assert finding.first_step == 0
    assert finding.summary == (
        "All 20 units of `1` are dead from the first step on: no input in 20 batches switched them "
        "on."
    )


def test_units_that_died_later_point_to_the_learning_rate():
    finding = only(check(net(20, since=50)))
    assert finding.kind == "learning-rate"
    assert finding.first_step == 80
    assert finding.summary == (
        "All 20 units of `1` died in training: no input in the last 20 batches switched them on."
    )


def test_a_functional_activation_names_the_layer_before_it():
    made = net(0)
    made._units.clear()
    made._blob = b""
    made.units(3, np.zeros(UNITS), role=Role.INPUT)
    finding = only(check(made))
    assert finding.modules == ("0",)
    assert finding.parameters == ("0.weight",)
    # the units are those of the layer before the function, not of the one that reads it
    assert finding.summary.startswith("All 20 units of `0` are dead")


def test_a_dead_output():
    made = Synthetic(100)
    made.layer("0")
    out = made.module("1", "ReLU", activation=Activation.RELU)
    made.units(out, np.zeros(1))
    made.loss(TRIVIAL)
    assert only(check(made)).kind == "output"


def test_the_first_dead_layer_is_the_cause_of_the_later_ones():
    made = net(20)
    made._units = [r for r in made._units if r["module"] != 4]
    made.units(4, np.zeros(UNITS))
    finding = only(check(made))
    assert finding.modules == ("1",)
    assert "3" in finding.also
    assert "and so are most units of `3`:" in finding.summary


def test_activations_that_cannot_die():
    assert isinstance(check(net(20, kind=Activation.LEAKY)), NotApplicable)


def test_gan_is_undecided():
    made = net(20)
    made.each_step(
        optimizer=[i % 2 for i in range(100)], site=[f"gan.py:{i % 2 + 1}" for i in range(100)]
    )
    assert isinstance(check(made), Undecided)


@pytest.mark.parametrize(("operation", "kind"), [("relu", Undecided), ("tanh", NotApplicable)])
def test_a_function_whose_units_nobody_read_is_not_called_absent(operation, kind):
    made = Synthetic(60)
    module, _ = made.layer("encoder")
    made.flow(module, 1.0, 1.0)
    made.loss(TRIVIAL)
    made.examined(kind="activation", operation=operation, module=module, calls=1)
    outcome = check(made)
    assert isinstance(outcome, kind)
    if kind is Undecided:
        assert "`relu` in `encoder`" in outcome.missing
