import gzip
import json
from pathlib import Path

import jsonschema
import pytest
from diagnoses import CLIPPING, VANISHING, diagnoses, healthy, hostile, rule, sick
from hypothesis import HealthCheck, given, settings

from gradscope.baseline import mark
from gradscope.diagnose.finding import Finding, Location
from gradscope.diagnose.rule import Passed
from gradscope.report.sarif import render

TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}},
}
POSITIVE = {"type": "integer", "minimum": 1}
LOCATION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation"],
            "additionalProperties": False,
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "required": ["uri"],
                    "properties": {"uri": {"type": "string", "pattern": r"^[!-~]*$"}},
                },
                "region": {
                    "type": "object",
                    "required": ["startLine"],
                    "additionalProperties": False,
                    "properties": {
                        "startLine": POSITIVE,
                        "startColumn": POSITIVE,
                        "endColumn": POSITIVE,
                        "snippet": TEXT,
                    },
                },
            },
        },
        "logicalLocations": {"type": "array", "items": {"required": ["fullyQualifiedName"]}},
    },
}
# The parts of SARIF 2.1.0 (OASIS, sections 3.13 to 3.49) that the log uses, written down again.
LOG = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name", "rules"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": [
                                                "id",
                                                "name",
                                                "shortDescription",
                                                "fullDescription",
                                                "helpUri",
                                                "properties",
                                            ],
                                            "properties": {
                                                "id": {"type": "string", "minLength": 1},
                                                "name": {"type": "string", "pattern": r"^\w+$"},
                                                "shortDescription": TEXT,
                                                "fullDescription": TEXT,
                                                "help": TEXT,
                                                "helpUri": {"pattern": "^https://"},
                                                "properties": {"type": "object"},
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "invocations": {
                        "type": "array",
                        "items": {
                            "required": ["executionSuccessful"],
                            "properties": {
                                "exitCode": {"type": "integer"},
                                "toolExecutionNotifications": {
                                    "type": "array",
                                    "items": {"required": ["message"]},
                                },
                            },
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["ruleId", "level", "message", "partialFingerprints"],
                            "properties": {
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": TEXT,
                                "locations": {"type": "array", "items": LOCATION},
                                "partialFingerprints": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


with gzip.open(Path(__file__).parent / "vendor" / "sarif-2.1.0-rtm.5.json.gz") as packed:
    OASIS = jsonschema.Draft4Validator(json.load(packed))
"""The schema of the standard itself."""


def run(diagnosis):
    log = json.loads(render(diagnosis))
    jsonschema.Draft202012Validator(LOG).validate(log)
    OASIS.validate(log)
    run = log["runs"][0]
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(ids) == len(set(ids))
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
    return run


@pytest.mark.parametrize("made", [sick, healthy, hostile])
def test_made_by_hand(made):
    assert len(run(made())["results"]) == len(made().findings)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_any_diagnosis(diagnosis):
    run(diagnosis)


def test_a_run_with_a_baseline_fits_too():
    made = mark(sick(), [sick().findings[0].fingerprint])
    states = [result["baselineState"] for result in run(made)["results"]]
    assert states == ["new"] * (len(made.findings) - 1) + ["unchanged"]


def test_levels_are_severities():
    results = run(sick())["results"]
    assert [result["level"] for result in results] == ["error"] * 3 + ["warning", "note"]


def test_a_result_points_at_the_call_that_builds_the_layer():
    result = run(sick(findings=(VANISHING,)))["results"][0]
    physical = result["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"] == {"uri": "model.py", "uriBaseId": "%SRCROOT%"}
    text = "            nn.Linear(64, 64), nn.Sigmoid(),"
    region = physical["region"]
    assert region["startLine"] == 7
    assert text[region["startColumn"] - 1 : region["endColumn"] - 1] == "nn.Linear(64, 64)"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "encoder.0"
    assert result["partialFingerprints"] == {"gradscope/v1": VANISHING.fingerprint}
    assert "replace the sigmoid by ReLU" in result["message"]["text"]


def test_without_a_line_the_watched_file_stands_without_one():
    def places(target):
        return run(sick(findings=(CLIPPING,), target=target))["results"][0]["locations"]

    expected = [{"artifactLocation": {"uri": "a/model.py", "uriBaseId": "%SRCROOT%"}}]
    assert [place["physicalLocation"] for place in places("a/model.py:net")] == expected
    assert places("Net") == []


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("my model.py", "my%20model.py"),
        ("größe.py", "gr%C3%B6%C3%9Fe.py"),
        ("/home/a b/m.py", "file:///home/a%20b/m.py"),
    ],
)
def test_paths_are_uris(file, uri):
    finding = Finding("GS1", "n", "note", "strong", "s", location=Location(file, 3))
    physical = run(sick(findings=(finding,)))["results"][0]["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"]["uri"] == uri
    assert physical["region"] == {"startLine": 3}


def test_rules_of_every_outcome_are_listed_once_with_their_title():
    known = (rule("GS101", "vanishing-gradient", "The gradient vanishes"), Passed(2.0, ""))
    rules = run(sick(passed=(known,)))["tool"]["driver"]["rules"]
    assert [item["id"] for item in rules] == sorted(
        ["GS101", "GS201", "GS601", "GS502", "GS106", "GS701", "GS301"]
    )
    assert rules[0]["name"] == "VanishingGradient"
    assert rules[0]["shortDescription"]["text"].startswith("The gradient vanishes")


def test_what_failed_is_a_notification():
    invocation = run(sick(errors=("GS9 raised KeyError",), failed="ValueError: x"))["invocations"][
        0
    ]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 3
    texts = [item["message"]["text"] for item in invocation["toolExecutionNotifications"]]
    assert texts == ["GS9 raised KeyError", "the training stopped early: ValueError: x"]
