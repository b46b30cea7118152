from importlib.metadata import EntryPoint

import pytest

from gradscope.diagnose.rule import Passed, Rule
from gradscope.errors import ConfigError, UsageError
from gradscope.recording.facts import all_facts
from gradscope.rules import RULES
from gradscope.rules.registry import GROUP, all_rules, by_code


class Mine(Rule):
    code, name, title, title_ok = "MY001", "mine", "t", "ok"
    family, severity, since = "flow", "note", "0.1.0"

    def check(self, recording, options):
        return Passed(None, "")


class Clashing(Mine):
    code = "GS101"


BOTH = (Mine, Clashing)
NO_RULE = 7


def point(name):
    return EntryPoint(name=name, value=f"plugin_for_tests:{name}", group=GROUP)


@pytest.fixture(autouse=True)
def _plugin(monkeypatch):
    import sys
    import types

    module = types.ModuleType("plugin_for_tests")
    module.Mine, module.Clashing, module.BOTH, module.NO_RULE = Mine, Clashing, BOTH, (NO_RULE,)
    monkeypatch.setitem(sys.modules, "plugin_for_tests", module)


def test_rules_of_other_packages_come_after_gradscopes_own():
    assert all_rules(RULES, [point("Mine")]) == (*RULES, Mine)
    assert all_rules(RULES, []) == RULES


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (["Clashing"], "rule code GS101 of entry point 'Clashing' .* is taken by gradscope"),
        (["Mine", "Mine"], "MY001 .* is taken by entry point 'Mine'"),
        (["BOTH"], "GS101"),
        (["NO_RULE"], "brings 7, which is no gradscope Rule"),
        (["missing"], "could not be loaded: AttributeError"),
    ],
)
def test_what_cannot_be_taken_is_an_error(points, says):
    with pytest.raises(ConfigError, match=says):
        all_rules(RULES, [point(name) for name in points])


def test_by_code_and_by_name():
    assert by_code("gs101", RULES) is RULES[0]
    assert by_code("Vanishing-Gradient", RULES) is RULES[0]
    with pytest.raises(UsageError, match="there is no rule 'GS999'"):
        by_code("GS999", RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_metadata(rule):
    assert rule.code.startswith("GS")
    assert rule.title[0].isupper()
    assert rule.title_ok[0].isupper()
    facts = set(all_facts())
    assert all(need.fact in facts for need in rule.needs)
    assert rule.severity in ("critical", "warning", "note")


def test_codes_and_names_differ_and_are_in_order():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert [rule.code for rule in RULES] == sorted({rule.code for rule in RULES})
