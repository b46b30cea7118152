import numpy as np
import pytest
from synthetic import TRIVIAL, Activation, Role, Synthetic, falling

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.saturated_activation import SaturatedActivation

rule = SaturatedActivation()
UNITS = 20


def check(made):
    return rule.check(made.build(), SaturatedActivation.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def slopes(made, module, table, *, kind=Activation.TANH, role=Role.OUTPUT, positions=64):
    """Slopes ``[units]`` or ``[steps, units]`` of one activation."""
    made.units(module, np.ones(np.shape(table)[-1]), kind=kind, role=role, positions=positions)
    table = np.broadcast_to(table, (made.steps, np.shape(table)[-1]))
    for row in made._units:
        if row["module"] != module:
            continue
        start = row["offset"] + (table.shape[1] + 7) // 8
        own = np.rint(table[row["step"]] * 255).astype(np.uint8).tobytes()
        made._blob = made._blob[:start] + own + made._blob[start + len(own) :]
        row["slope"] = float(table[row["step"]].mean())


def net(table, *, steps=100, loss=TRIVIAL, kind=Activation.TANH, name="Tanh", **facts):
    made = Synthetic(steps)
    made.layer("0")
    first = made.module("1", name, activation=kind)
    made.layer("2")
    second = made.module("3", "Tanh", activation=Activation.TANH)
    made.layer("4")
    slopes(made, first, table, kind=kind, **facts)
    slopes(made, second, np.full(UNITS, 0.8))
    made.loss(loss)
    return made


@pytest.mark.parametrize(("slope", "kind"), [(0.25, Findings), (0.27, Passed)])
def test_the_mean_slope(slope, kind):
    assert isinstance(check(net(np.full(UNITS, slope))), kind)


@pytest.mark.parametrize(("flat", "severity"), [(12, "warning"), (11, "note")])
def test_severity_by_the_share_of_flat_units(flat, severity):
    table = np.where(np.arange(UNITS) < flat, 0.02, 0.25)
    assert only(check(net(table))).severity == severity


def test_the_mean_is_over_the_window_not_the_largest():
    # flat in nine batches of ten, steep in the tenth: saturated, though never dead
    table = np.where((np.arange(100) % 10 == 0)[:, None], 1.0, np.zeros(UNITS))
    assert only(check(net(table))).evidence[0].value == pytest.approx(0.1, abs=0.01)


def test_a_training_that_learns_is_quiet():
    outcome = check(net(np.zeros(UNITS), loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(net(np.zeros(UNITS), steps=steps))).severity == severity


def test_nineteen_batches_are_too_few():
    assert isinstance(check(net(np.zeros(UNITS), steps=19)), Undecided)


def test_what_it_says():
    finding = only(check(net(np.zeros(UNITS))))
    assert (finding.kind, finding.modules, finding.parameters) == (
        "initialization", ("1",), ("0.weight",),
    )  # fmt: skip
    assert finding.summary == (
        "`1` is saturated since the first step: its mean slope is 0 % of the largest, 20 of 20 "
        "units are flat."
    )


def test_saturation_that_came_later_points_to_the_learning_rate():
    table = np.where((np.arange(100) < 50)[:, None], 0.9, np.zeros(UNITS))
    assert only(check(net(table))).kind == "learning-rate"


def test_a_functional_activation_names_the_layer_before_it():
    made = net(np.full(UNITS, 0.9))
    slopes(made, 5, np.zeros(UNITS), role=Role.INPUT)
    finding = only(check(made))
    assert finding.modules == ("2",)
    assert "The activation before `4` is saturated" in finding.summary


@pytest.mark.parametrize("kind", [Activation.RELU, Activation.GELU, Activation.LEAKY])
def test_one_sided_activations_do_not_saturate(kind):
    made = Synthetic()
    made.layer("0")
    slopes(made, made.module("1", "Act", activation=kind), np.zeros(UNITS), kind=kind)
    made.loss(TRIVIAL)
    assert isinstance(check(made), NotApplicable)


@pytest.mark.parametrize(("name", "kind"), [("Hardtanh", Findings), ("ReLU6", Passed)])
def test_relu6_is_half_flat_by_design(name, kind):
    made = net(np.full(UNITS, 0.1), kind=Activation.HARD, name=name)
    assert isinstance(check(made), kind)


@pytest.mark.parametrize(("operation", "kind"), [("bce", Passed), ("mse", Findings)])
def test_rare_classes_under_a_cross_entropy_are_no_saturation(operation, kind):
    made = net(np.full(UNITS, 0.9))
    out = made.module("5", "Sigmoid", activation=Activation.SIGMOID)
    slopes(made, out, np.full(1, 0.02), kind=Activation.SIGMOID)
    for item in made._losses:
        item["operation"] = operation
    assert isinstance(check(made), kind)


def test_gates_inside_an_lstm_cannot_be_seen():
    made = Synthetic()
    made.module("cell", "LSTM")
    made.loss(TRIVIAL)
    outcome = check(made)
    assert isinstance(outcome, Undecided)
    assert "cell" in outcome.missing
