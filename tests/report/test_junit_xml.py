from xml.etree import ElementTree

import pytest
from diagnoses import VANISHING, diagnoses, healthy, hostile, sick
from hypothesis import HealthCheck, given, settings

from gradscope.report.junit import render


def suite(diagnosis):
    root = ElementTree.fromstring(render(diagnosis).encode("utf-8"))
    assert root.tag == "testsuites"
    (only,) = root
    cases = only.findall("testcase")
    assert int(only.get("tests")) == len(cases)
    assert int(only.get("failures")) == sum(c.find("failure") is not None for c in cases)
    assert int(only.get("errors")) == sum(c.find("error") is not None for c in cases)
    assert int(only.get("skipped")) == sum(c.find("skipped") is not None for c in cases)
    assert {key: root.get(key) for key in ("tests", "failures")} == {
        key: only.get(key) for key in ("tests", "failures")
    }
    return only


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_any_diagnosis_is_valid_xml_with_true_totals(diagnosis):
    assert len(suite(diagnosis).findall(".//failure")) == len(diagnosis.findings)


def test_hostile_names_stay_text():
    made = suite(hostile())
    assert len(made.findall(".//failure")) == len(hostile().findings)
    messages = [failure.get("message") for failure in made.findall(".//failure")]
    assert "</script><img src=x onerror=alert(1)>" in messages
    assert "]]><!--&amp;\"'" in messages


def test_a_test_case_for_each_rule():
    cases = {case.get("classname"): case for case in suite(sick()).findall("testcase")}
    assert sorted(cases) == [
        f"gradscope.GS{number}" for number in (101, 102, 106, 201, 301, 403, 502, 505, 601, 701)
    ]
    assert cases["gradscope.GS101"].get("name") == "vanishing-gradient"
    assert cases["gradscope.GS101"].get("file") == "model.py"
    assert (
        list(
            cases["gradscope.GS102"].iter(
                "failure",
            )
        )
        == []
    )


def test_a_failure_for_each_finding_of_a_rule():
    made = suite(sick(findings=(VANISHING, VANISHING)))
    (case,) = [c for c in made.findall("testcase") if c.find("failure") is not None]
    failures = case.findall("failure")
    assert [failure.get("type") for failure in failures] == ["critical", "critical"]
    assert "gain 1.6e-9 (limit 1e-6, 620x below)" in failures[0].text
    assert "+            nn.Linear(64, 64), nn.ReLU()," in failures[0].text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("GS701", "not applicable: there is one rank"),
        ("GS301", "undecided: 20 sampled batches; 3 were recorded"),
    ],
)
def test_what_was_not_judged_is_skipped_with_its_reason(code, reason):
    case = suite(sick()).find(f"testcase[@classname='gradscope.{code}']")
    assert case.find("skipped").get("message") == reason


def test_what_failed():
    made = suite(healthy(errors=("GS9 raised", "GS8 raised"), failed="ValueError: x"))
    assert made.find("system-err").text == "GS9 raised\nGS8 raised"
    assert made.find(".//error").get("message") == "the training stopped early: ValueError: x"
    assert made.get("failures") == "0"
