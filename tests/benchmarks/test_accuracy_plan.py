"""The plan: parts that do not overlap, faults that fit, the same trainings every time."""

import copy

import pytest
import torch

from benchmarks.accuracy import faults
from benchmarks.accuracy.cases import NO_FAULT, Case, DoesNotFitError
from benchmarks.accuracy.families import FAMILIES
from benchmarks.accuracy.loops import LOOPS, REPORTING_LOOPS, TUNING_LOOPS
from benchmarks.accuracy.plan import plan, twin_of
from benchmarks.accuracy.training import draft_of, ready, trained


@pytest.fixture(scope="module")
def parts():
    return {part: plan(part, "short") for part in ("tuning", "reporting")}


def test_no_family_is_in_both_parts(parts):
    families = {part: {case.family for case in cases} for part, cases in parts.items()}
    assert not families["tuning"] & families["reporting"]
    assert set.union(*families.values()) == {family.name for family in FAMILIES}


def test_loops_of_the_tuning_part(parts):
    assert {case.loop for case in parts["tuning"]} <= set(TUNING_LOOPS)
    assert {*TUNING_LOOPS, *REPORTING_LOOPS} == set(LOOPS)


def test_a_third_of_the_reporting_faults_is_unknown_to_tuning(parts):
    faulty = [c for c in parts["reporting"] if c.fault != NO_FAULT and codes(c)]
    unknown = [c for c in faulty if c.loop in REPORTING_LOOPS]
    assert len(unknown) >= len(faulty) / 3


def codes(case):
    return faults.BY_NAME[case.fault].codes


def test_every_code_of_a_training_has_a_fault():
    expected = {code for fault in faults.FAULTS for code in fault.codes[:1]}
    known = {
        "GS101", "GS102", "GS103", "GS104", "GS105", "GS106", "GS201", "GS202", "GS203", "GS301",
        "GS302", "GS303", "GS401", "GS402", "GS403", "GS404", "GS501", "GS502", "GS503", "GS504",
        "GS505", "GS506",
    }  # fmt: skip
    assert expected == known


def test_each_case_stands_once(parts):
    cases = [*parts["tuning"], *parts["reporting"]]
    assert len({case.key for case in cases}) == len(cases)


def test_a_training_is_the_same_every_time():
    case = Case("mlp", "small", "wine", "adam", "accumulation", "dead-layer", 3.0, seed=2)
    assert trained(case) == trained(case)
    assert trained(case) != trained(case.reseeded(3))


@pytest.mark.parametrize("loop", [name for name in LOOPS if name != "accumulation"])
def test_every_way_of_writing_the_loop_trains_alike(loop):
    usual = ready(draft_of(Case("mlp", "tanh", "wine", "sgd", "plain", steps=20)), 0)
    other = ready(draft_of(Case("mlp", "tanh", "wine", "sgd", loop, steps=20)), 0)
    usual.run()
    other.run()
    for a, b in zip(usual.draft.model.parameters(), other.draft.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_fault_changes_nothing_but_itself():
    case = Case("mlp", "small", "digits", "sgd", "plain", "small-layer", 0.1)
    sick, twin = draft_of(case), draft_of(twin_of(case))
    assert sick.at_fault == ("1",)
    wanted = copy.deepcopy(twin.model.state_dict())
    wanted["1.weight"] *= 0.1
    for name, value in sick.model.state_dict().items():
        assert torch.equal(value, wanted[name])
    assert torch.equal(next(sick.batches(0))[0], next(twin.batches(0))[0])


def test_a_twin_may_be_a_training_of_its_own():
    late = Case("mlp", "small", "digits", "sgd", "plain", "clip-late", 10)
    assert twin_of(late).fault == "clipped"
    assert twin_of(late).level == 10
    assert twin_of(Case("mlp", "deep", "digits", "sgd", "plain", "frozen-body", 1)) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(DoesNotFitError):
        draft_of(Case("mlp", "small", "digits", "sgd", "plain", "saturated-layer", 4))
    with pytest.raises(DoesNotFitError):
        draft_of(Case("mlp", "small", "digits", "sgd", "closure", "zero-late", 1))
    with pytest.raises(DoesNotFitError):
        draft_of(Case("mlp", "small", "digits", "sgd", "plain", "float16", 1e-6))
