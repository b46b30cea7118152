import pytest
from synthetic import TRIVIAL, State, Synthetic, falling

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.not_in_optimizer import NotInOptimizer

rule = NotInOptimizer()


def check(made):
    return rule.check(made.build(), NotInOptimizer.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def net(inside=("a", "c"), outside=("b",), *, steps=100, loss=None, **facts):
    made = Synthetic(steps)
    for name in sorted({*inside, *outside}):
        given = {"optimizer": -1, "group": -1, **facts} if name in outside else {}
        made.layer(name, **given)
    made.loss(falling(steps) if loss is None else loss)
    return made


def test_a_layer_that_was_left_out():
    finding = only(check(net(loss=TRIVIAL)))
    assert (finding.severity, finding.confidence, finding.kind) == ("warning", "certain", "missing")
    assert finding.modules == ("b",)
    assert finding.parameters == ("b.weight",)
    assert finding.summary == (
        "1 parameter of `b` gets a gradient but is in no optimizer, so it never changes."
    )
    assert {e.name: e.value for e in finding.evidence}[
        "share of the trainable elements"
    ] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("steps", "kind"), [(4, Undecided), (5, Findings)])
def test_it_is_said_after_five_steps(steps, kind):
    assert isinstance(check(net(steps=steps)), kind)


@pytest.mark.parametrize(
    ("inside", "outside", "loss", "severity"),
    [
        (("a", "c"), ("b",), TRIVIAL, "warning"),
        (("a",), ("b",), TRIVIAL, "critical"),
        (("a",), ("b", "c"), falling(end=0.51 * TRIVIAL), "warning"),
        (("a",), ("b", "c"), falling(end=0.45 * TRIVIAL), "warning"),
    ],
)
def test_severity_by_share_and_harm(inside, outside, loss, severity):
    assert only(check(net(inside, outside, loss=loss))).severity == severity


@pytest.mark.parametrize(
    ("loss", "severity"),
    [(None, "note"), (falling(end=0.6 * TRIVIAL), "warning"), (TRIVIAL, "critical")],
)
def test_a_head_that_learns_on_a_fixed_body_may_be_meant(loss, severity):
    assert only(check(net(("z",), ("a", "b"), loss=loss))).severity == severity


def test_modules_in_a_plain_list():
    finding = only(check(net(registered=False)))
    assert finding.kind == "unregistered"
    assert "nn.ModuleList" in finding.causes[0]


def test_parameters_that_were_replaced():
    made = net()
    stale = made.parameter("stale", -1, root=-1)
    made.gradient(stale, state=State.NONE)
    finding = only(check(made))
    assert finding.kind == "replaced"
    assert finding.summary == (
        "`b` was replaced after the optimizer was built: it still holds the old parameters, and "
        "the 1 parameter that came instead never changes."
    )


@pytest.mark.parametrize(
    ("facts", "state"),
    [({"requires_grad": False}, State.FROZEN), ({"reached": False}, State.NONE)],
)
def test_frozen_and_unreached_parameters_are_silent(facts, state):
    made = net(**facts)
    made.gradient(1, state=state)
    assert isinstance(check(made), Passed)


def test_the_other_half_of_a_gan_is_silent():
    assert isinstance(check(net(optimizer=1)), Passed)


def test_a_hand_written_update_is_not_applicable():
    assert isinstance(check(net((), ("a", "b"))), NotApplicable)


def test_where_its_gradient_was_not_looked_at_the_graph_decides():
    for reached, kind in ((True, Findings), (False, Passed), (None, Passed)):
        made = net(reached=reached)
        made._gradients = [r for r in made._gradients if r["parameter"] != 1]
        assert isinstance(check(made), kind)
