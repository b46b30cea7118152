from dataclasses import dataclass

import pytest
from synthetic import chain

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.finding import Finding
from gradscope.diagnose.rule import (
    Findings,
    Need,
    NotApplicable,
    Passed,
    Rule,
    Undecided,
)
from gradscope.errors import ConfigError, UsageError


@dataclass(frozen=True)
class Options:
    limit: float = 1.0
    steps: int = 5


class Base(Rule):
    title, title_ok, family, severity, since = "t", "ok", "flow", "warning", "0.1.0"


class Finds(Base):
    code, name = "GS901", "finds"
    options = Options()

    def check(self, recording, options):
        return Findings((finding(self.code, "enc.0"), finding(self.code, "dec.0")))


class Passes(Base):
    code, name = "GS902", "passes"
    options = Options()

    def check(self, recording, options):
        return Passed(options.limit, f"{options.steps}")


class Breaks(Base):
    code, name = "GS911", "breaks"

    def check(self, recording, options):
        raise ZeroDivisionError("by design")


class NeedsUnits(Base):
    code, name = "GS912", "needs-units"
    needs = (Need("units", 1, "not-applicable", why="there is no activation"),)

    def check(self, recording, options):
        raise AssertionError("the engine must not ask")


class NeedsSketches(Base):
    code, name = "GS913", "needs-sketches"
    needs = (Need("sketches", 3),)

    def check(self, recording, options):
        raise AssertionError("the engine must not ask")


class NeedsMore(Base):
    code, name = "GS914", "needs-more"
    needs = (Need("gradients", 101),)

    def check(self, recording, options):
        raise AssertionError("the engine must not ask")


RULES = (Finds, Passes, Breaks, NeedsUnits, NeedsSketches, NeedsMore)


def finding(code, module, **facts):
    return Finding(code, "finds", "warning", "strong", "s", modules=(module,), **facts)


@pytest.fixture(scope="module")
def recording():
    return chain(3).build()


def outcomes(diagnosis):
    named = {}
    for group in ("passed", "not_applicable", "undecided"):
        for rule, _ in getattr(diagnosis, group):
            named[rule.code] = group
    for item in diagnosis.findings:
        named[item.code] = "findings"
    return named


def test_each_rule_has_exactly_one_outcome(recording):
    result = diagnose(recording, RULES)
    assert outcomes(result) == {
        "GS901": "findings",
        "GS902": "passed",
        "GS912": "not_applicable",
        "GS913": "undecided",
        "GS914": "undecided",
    }
    assert len(result.errors) == 1


def test_the_engine_answers_from_needs(recording):
    result = diagnose(recording, RULES)
    assert result.not_applicable[0][1] == NotApplicable("there is no activation")
    missing = [outcome for _, outcome in result.undecided]
    assert missing == [
        Undecided("sketches was not recorded"),
        Undecided("gradients was recorded on 100 steps, 101 are needed"),
    ]


def test_a_failing_rule_is_a_sentence_with_its_place(recording):
    result = diagnose(recording, (Breaks, Passes))
    (error,) = result.errors
    assert error.startswith("rule GS911 failed: ZeroDivisionError: by design (")
    assert "test_engine.py" in error
    assert [rule.code for rule, _ in result.passed] == ["GS902"]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("select", "ignore", "codes"),
    [
        (["GS901"], [], {"GS901"}),
        (["GS90"], [], {"GS901", "GS902"}),
        (["gs91"], [], {"GS912", "GS913", "GS914"}),
        ([], ["GS9"], set()),
        (["GS90"], ["GS901"], {"GS902"}),
    ],
)
def test_select_and_ignore_by_code_and_family(recording, select, ignore, codes):
    assert set(outcomes(diagnose(recording, RULES, select=select, ignore=ignore))) == codes


def test_layer_patterns_take_out_single_findings(recording):
    def modules(**chosen):
        return [f.modules[0] for f in diagnose(recording, (Finds,), **chosen).findings]

    assert modules(ignore=["GS901:enc.*"]) == ["dec.0"]
    assert modules(select=["GS901:enc.?"]) == ["enc.0"]
    assert modules(ignore=["GS9:*"]) == []


def test_a_rule_whose_findings_are_all_ignored_has_not_passed(recording):
    result = diagnose(recording, (Finds,), ignore=["GS901:*"])
    assert result.passed == ()
    assert result.not_applicable == ((Finds, NotApplicable("ignored by 'GS901:*'")),)
    assert result.exit_code == 0


@pytest.mark.parametrize("bad", ["", "101", "GS901:", "enc.*"])
def test_a_pattern_that_selects_nothing_is_an_error(recording, bad):
    with pytest.raises(UsageError, match=r"selects nothing|no rule has a code"):
        diagnose(recording, RULES, select=[bad])


def test_an_unknown_code_is_an_error_that_names_the_known(recording):
    with pytest.raises(UsageError) as caught:
        diagnose(recording, RULES, ignore=["GS777"])
    assert "GS777" in str(caught.value)
    assert "GS901" in str(caught.value)


def test_options_are_merged_into_the_defaults(recording):
    result = diagnose(recording, (Passes,), options={"GS902": {"limit": 7.0}})
    assert result.passed[0][1] == Passed(7.0, "5")
    result = diagnose(recording, (Passes,), options={"GS902": Options(steps=9)})
    assert result.passed[0][1] == Passed(1.0, "9")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"GS777": {}}, "GS777"),
        ({"GS902": {"limits": 1}}, "its options: limit, steps"),
        ({"GS911": {"limit": 1}}, "its options: none"),
        ({"GS902": 3}, "options for GS902 are a int"),
    ],
)
def test_options_that_do_not_exist(recording, options, says):
    with pytest.raises(ConfigError, match=says):
        diagnose(recording, RULES, options=options)


def test_facts_of_the_command_are_passed_on(recording):
    result = diagnose(recording, (Finds,), command="run", target="t.py", fail_on="critical")
    assert (result.command, result.target, result.exit_code) == ("run", "t.py", 0)
    default = diagnose(recording, (Finds,))
    assert (default.command, default.target, default.exit_code) == ("check", "model.py", 1)


def test_a_finding_prints_as_one_line():
    finding = Finding(
        code="GS101", name="vanishing-gradient", severity="critical", confidence="strong",
        summary="It vanishes.",
    )  # fmt: skip
    assert str(finding) == "GS101 vanishing-gradient (critical, strong): It vanishes."
