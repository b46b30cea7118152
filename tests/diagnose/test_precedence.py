import pytest

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.finding import Evidence, Finding, Origin
from gradscope.diagnose.precedence import FIRST_NONFINITE, OUTSIDE, TABLE, arbitrate
from gradscope.rules import RULES


def finding(code, severity="warning", confidence="strong", **facts):
    return Finding(code, code.lower(), severity, confidence, "s", **facts)


def share(value):
    return (Evidence(OUTSIDE, value),)


INPUT = Origin("", "input", "", None)
FORWARD = Origin("log", "forward", "", None)
GREW = (Evidence(FIRST_NONFINITE, 7.0),)


@pytest.mark.parametrize(
    ("found", "left"),
    [
        # growth that ended in NaN is GS102, data that held one is GS201
        ((finding("GS102", evidence=GREW), finding("GS201", origin=FORWARD)), {"GS102"}),
        ((finding("GS102", evidence=GREW), finding("GS201", origin=INPUT)), {"GS201"}),
        ((finding("GS102"), finding("GS201", origin=FORWARD)), {"GS102", "GS201"}),
        # behind a NaN nothing else is judged
        ((finding("GS201", origin=FORWARD), finding("GS505"), finding("GS301")), {"GS201"}),
        # dead units make everything before them exactly zero
        (
            (finding("GS301"), finding("GS104", kind="zero"), finding("GS101"), finding("GS505")),
            {"GS301"},
        ),
        ((finding("GS301"), finding("GS104", kind="detached")), {"GS301", "GS104"}),
        # parameters outside the optimizer
        ((finding("GS403", evidence=share(0.1)), finding("GS505")), {"GS403"}),
        ((finding("GS403", evidence=share(0.1)), finding("GS101")), {"GS403", "GS101"}),
        ((finding("GS403", evidence=share(0.5)), finding("GS101")), {"GS403"}),
        ((finding("GS403", "note", evidence=share(0.9)), finding("GS505")), {"GS403", "GS505"}),
        ((finding("GS403", kind="replaced"), finding("GS104", "note")), {"GS403"}),
        (
            (finding("GS403", kind="replaced"), finding("GS104", modules=("a",))),
            {"GS403", "GS104"},
        ),
        ((finding("GS101"), finding("GS301", "note")), {"GS101"}),
        ((finding("GS101"), finding("GS301", "warning")), {"GS301"}),
        ((finding("GS101"), finding("GS505")), {"GS101"}),
        ((finding("GS104", kind="detached"), finding("GS505")), {"GS104"}),
        # through time much is lost in healthy trainings, too: every other cause goes before
        ((finding("GS402"), finding("GS101", kind="through-time")), {"GS402"}),
        ((finding("GS203", kind="format"), finding("GS101", kind="through-time")), {"GS203"}),
        ((finding("GS104"), finding("GS101", kind="through-time"), finding("GS505")), {"GS104"}),
        ((finding("GS101", kind="through-time"), finding("GS105"), finding("GS505")), {"GS101"}),
        (
            (finding("GS402", "note"), finding("GS101", "note", "tentative", kind="through-time")),
            {"GS402", "GS101"},
        ),
        ((finding("GS402"), finding("GS101", kind="depth")), {"GS101"}),
        # number formats: a gradient that shrinks over depth, and one that leaves the loss too small
        ((finding("GS101"), finding("GS202", kind="depth")), {"GS101"}),
        ((finding("GS101"), finding("GS202", kind="loss"), finding("GS505")), {"GS202"}),
        ((finding("GS202", kind="loss"), finding("GS104", kind="zero")), {"GS202"}),
        ((finding("GS201", origin=FORWARD), finding("GS202", kind="skips")), {"GS201"}),
        ((finding("GS203", kind="format"), finding("GS402"), finding("GS505")), {"GS203"}),
        ((finding("GS203", kind="learning-rate"), finding("GS402")), {"GS402"}),
        ((finding("GS101"), finding("GS203", kind="learning-rate")), {"GS101"}),
        # a note and a guess explain nothing
        ((finding("GS101", "note", "tentative"), finding("GS505")), {"GS101", "GS505"}),
        ((finding("GS301", "note"), finding("GS505")), {"GS301", "GS505"}),
        ((finding("GS505"),), {"GS505"}),
        ((), set()),
    ],
)
def test_first_cause_first(found, left):
    standing, explained = arbitrate(found)
    assert {f.code for f in standing} == left
    assert len(standing) + len(explained) == len(found)


def test_what_a_cause_explains_is_named_in_also_once():
    cause = finding("GS301", modules=("act",), parameters=("0.weight",), also=("1",))
    effect = finding("GS101", modules=("0",), also=("1", "act", "2"))
    (standing,), explained = arbitrate((cause, effect))
    assert standing.also == ("1", "0", "2")
    assert explained[0][0] == effect


def test_each_of_several_causes_of_one_rule_may_explain():
    first = finding("GS104", "note", kind="unused", modules=("a",))
    second = finding("GS104", kind="detached", modules=("b",))
    standing, explained = arbitrate((first, second, finding("GS505")))
    assert {f.modules for f in standing} == {("a",), ("b",)}
    assert explained[0][1].modules == ("b",)


def test_the_table_names_existing_rules_and_has_no_cycle_without_a_condition():
    codes = {rule.code for rule in RULES}
    pairs = {(row.cause, effect) for row in TABLE for effect in row.effects}
    assert {code for pair in pairs for code in pair} <= codes
    mutual = {pair for pair in pairs if pair[::-1] in pairs}
    conditional = {("GS201", "GS102"), ("GS102", "GS201"), ("GS101", "GS301"), ("GS301", "GS101")}
    conditional |= {("GS101", "GS202"), ("GS202", "GS101"), ("GS203", "GS402"), ("GS402", "GS203")}
    conditional |= {("GS303", "GS402"), ("GS402", "GS303"), ("GS303", "GS301"), ("GS301", "GS303")}
    spikes = [("GS103", code) for code in ("GS102", "GS201", "GS401", "GS504")]
    for pair in (("GS401", "GS102"), ("GS404", "GS102"), ("GS404", "GS101"), *spikes):
        conditional |= {pair, pair[::-1]}
    # what vanishes through time is explained by these; what vanishes over depth explains them
    for code in ("GS203", "GS303", "GS402"):
        conditional |= {("GS101", code), (code, "GS101")}
    assert mutual == conditional
    assert all(row.why for row in TABLE)


def test_a_rule_whose_finding_is_explained_is_undecided():
    from synthetic import chain

    result = diagnose(chain(6, activation_gain=0.2).build(), RULES)
    assert [f.code for f in result.findings] == ["GS101"]
    undecided = {rule.code: outcome.missing for rule, outcome in result.undecided}
    assert undecided["GS505"].startswith("explained by GS101 (vanishing-gradient at `0`)")


@pytest.mark.parametrize(("first", "stands"), [(0, "GS101"), (80, "GS301")])
def test_what_was_there_first_is_the_cause(first, stands):
    vanishing = finding("GS101", first_step=first)
    dead = finding("GS301", first_step=80)
    standing, _ = arbitrate((vanishing, dead))
    assert [f.code for f in standing] == [stands]
