import pytest
from synthetic import TRIVIAL, State, Synthetic, falling

from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.rules.no_gradient import NoGradient

rule = NoGradient()


def check(made):
    return rule.check(made.build(), NoGradient.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


HALF_WAY = falling(end=0.52 * TRIVIAL)
"""A training that learns, but has more than half of its trivial loss left."""


def without(reason, *, steps=100, loss=None, state=State.NONE, others=3, **facts):
    """One layer without a gradient beside ``others`` that have one."""
    made = Synthetic(steps)
    module = made.module("cut")
    weight = made.parameter("cut.weight", module, reached=False, unreached_reason=reason, **facts)
    made.gradient(weight, state=state)
    for index in range(others):
        made.layer(f"fine.{index}")
    made.loss(falling(steps) if loss is None else loss)
    return made


@pytest.mark.parametrize(
    ("reason", "severity"),
    [
        ("detached", "warning"),
        ("no-grad", "warning"),
        ("integer", "warning"),
        ("other", "warning"),
        ("unused", "note"),
    ],
)
def test_severity_by_kind_where_half_of_the_loss_is_not_removed(reason, severity):
    finding = only(check(without(reason, loss=falling(end=0.51 * TRIVIAL))))
    assert (finding.kind, finding.severity, finding.confidence) == (reason, severity, "certain")


@pytest.mark.parametrize(("steps", "kind"), [(4, Undecided), (5, Findings)])
def test_never_is_said_after_five_steps(steps, kind):
    assert isinstance(check(without("detached", steps=steps)), kind)


@pytest.mark.parametrize(("others", "severity"), [(1, "warning"), (0, "critical")])
@pytest.mark.parametrize("loss", [TRIVIAL, HALF_WAY, None])
@pytest.mark.parametrize("reason", ["detached", "no-grad", "integer", "other"])
def test_a_cut_of_most_of_the_model_is_critical_however_long_it_ran(reason, loss, others, severity):
    assert only(check(without(reason, loss=loss, others=others))).severity == severity


@pytest.mark.parametrize(
    ("reason", "severity"),
    [("unused", "note"), ("detached", "critical"), ("no-grad", "critical"), ("other", "critical")],
)
def test_a_training_that_does_well_without_what_it_does_not_use(reason, severity):
    finding = only(check(without(reason, loss=falling(end=0.4 * TRIVIAL), others=0)))
    assert (finding.severity, finding.confidence) == (severity, "certain")


@pytest.mark.parametrize(("loss", "severity"), [(TRIVIAL, "critical"), (HALF_WAY, "warning")])
@pytest.mark.parametrize(("reason", "state"), [("unused", State.NONE), (None, State.EXACT_ZERO)])
def test_an_unused_or_zero_majority_is_critical_where_nothing_learns(reason, state, loss, severity):
    assert only(check(without(reason, state=state, loss=loss, others=0))).severity == severity


@pytest.mark.parametrize(("others", "severity"), [(1, "note"), (0, "warning")])
def test_an_unused_majority_is_no_leftover(others, severity):
    assert only(check(without("unused", others=others, loss=HALF_WAY))).severity == severity


def test_the_cut_is_the_location():
    made = without(
        "detached", unreached_operation="detach", unreached_file="net.py", unreached_line=21
    )
    finding = only(check(made))
    assert finding.location == Location("net.py", 21)
    assert finding.summary == (
        "`cut` never gets a gradient: the graph is cut before it by `detach` at net.py:21."
    )
    assert finding.causes == ("`detach` at net.py:21 stands between it and the loss.",)
    assert finding.modules == ("cut",)
    assert finding.parameters == ("cut.weight",)


def test_one_finding_for_each_cut():
    made = Synthetic(20)
    for name, line in (("a", 5), ("b", 5), ("c", 9)):
        module = made.module(name)
        weight = made.parameter(
            f"{name}.weight", module, reached=False, unreached_reason="detached",
            unreached_file="net.py", unreached_line=line,
        )  # fmt: skip
        made.gradient(weight, state=State.NONE)
    made.layer("fine")
    made.loss(falling(20))
    outcome = check(made)
    assert [f.modules + f.also for f in outcome.findings] == [("a", "b"), ("c",)]


def test_without_a_reason_an_uncalled_module_is_unused_and_any_other_is_other():
    assert only(check(without(None))).kind == "other"
    made = without(None)
    made._modules[1]["order"] = None
    assert only(check(made)).kind == "unused"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"requires_grad": False, "state": State.FROZEN}, "frozen on purpose"),
        ({"optimizer": -1}, "outside the optimizer: GS403"),
    ],
)
def test_what_is_not_meant_to_get_one_is_silent(facts, why):
    assert isinstance(check(without("frozen", **facts)), Passed), why


def test_a_head_that_is_used_now_and_then_is_silent():
    made = without("unused")
    made.gradient(0, [1.0 if step == 50 else 0.0 for step in range(100)])
    assert isinstance(check(made), Passed)


def test_loras_first_step_is_silent():
    made = without(None)
    made.gradient(0, [0.0] + [1.0] * 99)
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(("loss", "severity"), [(None, "note"), (TRIVIAL, "warning")])
def test_a_matrix_whose_gradient_is_always_zero(loss, severity):
    finding = only(check(without(None, state=State.EXACT_ZERO, loss=loss)))
    assert (finding.kind, finding.severity) == ("zero", severity)
    names = [item.name for item in finding.evidence]
    assert "parameters whose gradient is exactly zero" in names
    assert "parameters without a gradient" not in names


def test_a_bias_whose_gradient_is_always_zero_is_silent():
    made = without(None, state=State.EXACT_ZERO, shape=[8])
    assert isinstance(check(made), Passed)


def test_a_gradient_that_is_zero_everywhere():
    made = without(None, state=State.EXACT_ZERO, others=0, loss=TRIVIAL)
    finding = only(check(made))
    assert (finding.kind, finding.severity) == ("zero", "critical")


def test_steps_after_a_nan_do_not_count():
    made = without("detached", steps=20)
    made.alarm(4)
    assert isinstance(check(made), Undecided)


def test_a_hand_written_update_is_not_applicable():
    assert isinstance(check(without("detached", others=0, optimizer=-1)), NotApplicable)


def test_layers_before_a_cut_are_told_with_it():
    made = Synthetic(100)
    for name, reason in (("first", None), ("cut", "no-grad")):
        module = made.module(name)
        facts = {"reached": False, "unreached_reason": reason}
        made.gradient(made.parameter(f"{name}.weight", module, **facts), state=State.NONE)
    made.layer("head")
    made.loss(TRIVIAL)
    finding = only(check(made))
    assert finding.kind == "no-grad"
    assert (finding.modules, finding.also) == (("cut",), ("first",))


@pytest.mark.parametrize("count", [4, 12])
def test_a_cut_of_few_elements_is_a_mistake_all_the_same(count):
    made = without("detached", loss=HALF_WAY, others=1, count=count)
    assert only(check(made)).severity == "warning"
