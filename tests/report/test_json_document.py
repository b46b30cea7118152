import json
import math

import jsonschema
import pytest
from diagnoses import (
    BACKWARD,
    NON_FINITE,
    VANISHING,
    diagnoses,
    healthy,
    hostile,
    recording,
    sick,
)
from hypothesis import HealthCheck, given, settings

import gradscope
from gradscope.diagnose.finding import Evidence, Finding
from gradscope.report.json import document, render, schema

VALIDATOR = jsonschema.Draft202012Validator(schema())


def refuse(constant):
    raise AssertionError(f"the literal {constant} is not JSON")


def read(diagnosis):
    return json.loads(render(diagnosis), parse_constant=refuse)


def finding(diagnosis, code):
    return next(item for item in read(diagnosis)["findings"] if item["code"] == code)


def test_the_schema_is_a_schema_and_every_object_lets_keys_be_added():
    jsonschema.Draft202012Validator.check_schema(schema())

    def closed(node):
        if isinstance(node, dict):
            return "additionalProperties" in node or any(map(closed, node.values()))
        return isinstance(node, list) and any(map(closed, node))

    assert not closed(schema())


@pytest.mark.parametrize("made", [sick, healthy, hostile])
def test_made_by_hand(made):
    VALIDATOR.validate(read(made()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_any_diagnosis_fits_the_schema(diagnosis):
    VALIDATOR.validate(read(diagnosis))


def test_the_head():
    head = read(sick(command="run", fail_on="critical"))
    assert head["schema_version"] == 1
    assert head["tool"] == {"name": "gradscope", "version": gradscope.__version__}
    assert (head["command"], head["target"], head["exit_code"]) == ("run", "model.py", 1)
    assert head["assumptions"] == ["loss: cross-entropy, as the output has 10 columns"]
    assert head["limits"] == ["compiled model: modules not seen"]
    assert read(healthy())["exit_code"] == 0
    assert read(healthy(failed="ValueError: shapes"))["exit_code"] == 3


def test_the_run():
    run = read(sick())["run"]
    assert run["steps_seen"] == 200
    assert run["steps_sampled"] == 25
    assert (run["parameters"], run["modules"]) == (4, 5)
    assert (run["device"], run["dtype"]) == ("cpu", "float32")
    assert run["optimizers"] == [{"type": "Adam", "lr": [0.001]}]
    assert run["loss_first"] == 2.3
    assert run["loss_last"] == pytest.approx(2.3 - 0.199)


def test_losses_are_those_of_the_call_site_with_most_steps():
    losses, sites = [9.0, 1.0, 8.0, 2.0, 3.0], ["a.py:1", "b.py:2", "a.py:1", "b.py:2", "b.py:2"]
    run = read(sick(recording=recording(5, losses=losses, sites=sites)))["run"]
    assert (run["loss_first"], run["loss_last"]) == (1.0, 3.0)


def test_a_loss_that_ends_in_nan_is_null_and_not_the_last_finite_one():
    run = read(sick(recording=recording(3, losses=[1.0, 2.0, math.nan])))["run"]
    assert (run["loss_first"], run["loss_last"]) == (1.0, None)


def test_overhead_is_own_time_over_all_time():
    overhead = read(sick())["overhead"]
    assert overhead["fraction"] == pytest.approx(0.0002 / 0.02)
    assert overhead["seconds_per_step"] == pytest.approx(0.0002)


def test_a_run_without_steps_has_no_losses_and_no_cost():
    empty = read(healthy(recording=recording(0, run={"device": None, "optimizers": None})))
    VALIDATOR.validate(empty)
    assert empty["run"]["loss_first"] is None
    assert empty["run"]["optimizers"] == []
    assert empty["overhead"] == {"fraction": None, "seconds_per_step": None}


def test_a_finding_has_the_keys_of_the_contract():
    item = finding(sick(), "GS101")
    assert item["modules"] == ["encoder.0"]
    assert item["also"] == ["encoder.2", "head"]
    assert item["location"] == {"file": "model.py", "line": 7}
    assert (item["first_step"], item["last_step"]) == (0, 199)
    assert item["evidence"][0] == {"name": "gain", "value": 1.6e-9, "unit": "ratio", "limit": 1e-6}
    assert item["fingerprint"] == VANISHING.fingerprint
    trial = item["fixes"][0]["trial"]
    assert (trial["status"], trial["reason"], trial["seeds"]) == ("helped", None, 3)
    assert trial["loss_treated"] == [0.5, 0.41, 0.52]
    assert item["fixes"][1]["trial"]["status"] == "not-tried"
    assert "origin" not in item
    assert "kind" not in item


def test_origin_and_kind_belong_to_their_rules():
    origin = finding(sick(), "GS201")["origin"]
    assert origin["operation"] == "log"
    assert origin["phase"] == "forward"
    assert origin["location"] == {"file": "model.py", "line": 11}
    assert origin["samples"] == [3]
    assert finding(sick(), "GS601")["kind"] == "scaled"


def test_numbers_that_are_not_finite_are_null_with_their_text():
    evidence = finding(sick(), "GS201")["evidence"]
    assert [(item["value"], item["text"]) for item in evidence] == [
        (None, "NaN"),
        (None, "Infinity"),
        (None, "-Infinity"),
    ]
    assert "text" not in finding(sick(), "GS101")["evidence"][0]


def test_the_schema_wants_the_text_only_beside_a_null():
    def with_evidence(**item):
        made = document(sick(findings=(BACKWARD,)))
        made["findings"][0]["evidence"] = [{"name": "x", "unit": "", "limit": None, **item}]
        return made

    assert VALIDATOR.is_valid(with_evidence(value=None, text="NaN"))
    assert not VALIDATOR.is_valid(with_evidence(value=None))
    assert not VALIDATOR.is_valid(with_evidence(value=1.0, text="NaN"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema_version", 2), ("exit_code", 4), ("findings", None), ("limits", [3]), ("run", {})],
)
def test_the_schema_refuses(key, value):
    assert not VALIDATOR.is_valid({**document(sick()), key: value})


def test_the_schema_refuses_a_non_finite_finding_without_origin():
    made = document(sick(findings=(NON_FINITE,)))
    del made["findings"][0]["origin"]
    assert not VALIDATOR.is_valid(made)


def test_the_other_outcomes():
    made = read(sick())
    assert [item["margin"] for item in made["passed"]] == [640.0, 1.6, None]
    assert made["passed"][0]["code"] == "GS102"
    assert made["not_applicable"][0]["reason"] == "there is one rank"
    assert made["undecided"][0]["missing"] == "20 sampled batches; 3 were recorded"


def test_the_fingerprint_forgets_numbers_lines_and_steps():
    def made(**changes):
        base = {"code": "GS1", "name": "n", "severity": "note", "confidence": "strong"}
        return Finding(**{**base, "summary": "s", "modules": ("a",), **changes}).fingerprint

    assert made() == made(first_step=7, evidence=(Evidence("x", 1.0),), modules=("a", "b"))
    assert len({made(), made(code="GS2"), made(modules=("b",)), made(kind="k")}) == 4
