import math

import numpy as np
import pytest
from synthetic import Synthetic, falling

from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.rules.non_finite import NonFinite

rule = NonFinite()


def check(made):
    return rule.check(made.build(), None)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def broken(origin=None, *, steps=30, at=12, loss=None, kind="loss-nonfinite"):
    made = Synthetic(steps)
    made.layer("enc")
    values = falling(steps)
    values[at:] = math.nan
    made.loss(values if loss is None else loss)
    made.alarm(at, kind, origin=origin)
    return made


def origin(**facts):
    return {
        "operation": "log", "phase": "forward", "module": 1, "file": "net.py", "line": 33,
        "samples": [3, 5], "reason": "log of a value that is 0",
    } | facts  # fmt: skip


def test_the_origin_is_told():
    finding = only(check(broken(origin())))
    assert (finding.severity, finding.confidence, finding.kind) == ("critical", "certain", "log")
    assert finding.modules == ("enc",)
    assert finding.location == Location("net.py", 33)
    assert (finding.origin.operation, finding.origin.samples) == ("log", (3, 5))
    assert finding.summary == (
        "`log` in `enc` (net.py:33) makes the first NaN or Inf at step 12, in the forward pass, "
        "in samples 3, 5 of the batch."
    )
    assert finding.causes == ("log of a value that is 0",)
    assert (finding.first_step, finding.last_step) == (12, 12)


def test_the_data_is_told_apart():
    finding = only(check(broken(origin(operation="", phase="input", module=0, samples=[7]))))
    assert finding.kind == "input"
    assert finding.summary == "The data holds a NaN or an Inf at step 12, in sample 7 of the batch."


def test_an_origin_outside_modules():
    finding = only(check(broken(origin(module=-1, samples=[]))))
    assert "outside the model's layers (net.py:33)" in finding.summary


def test_without_an_origin_the_backward_call_is_the_location():
    finding = only(check(broken()))
    assert finding.origin is None
    assert finding.location == Location("train.py", 7)
    assert "where it began is not known" in finding.summary


def test_the_first_alarm_with_an_origin_counts():
    made = broken(kind="gradient-nonfinite")
    made.alarm(13, "loss-nonfinite", origin=origin())
    finding = only(check(made))
    assert finding.first_step == 12
    assert finding.origin.operation == "log"


def test_a_loss_that_is_infinite_needs_no_alarm():
    made = Synthetic(30)
    made.loss(np.where(np.arange(30) < 12, 1.0, math.inf))
    assert only(check(made)).first_step == 12


def test_one_that_recovers_is_a_warning():
    values = falling(30)
    values[12] = math.nan
    assert only(check(broken(origin(), loss=values))).severity == "warning"


@pytest.mark.parametrize(("taken", "kind"), [(0, Undecided), (1, Passed)])
def test_a_run_of_skipped_steps_alone_says_nothing_of_the_model(taken, kind):
    made = Synthetic(30)
    made.loss(falling(30))
    made.each_step(skipped=[i >= taken for i in range(30)])
    assert isinstance(check(made), kind)


@pytest.mark.parametrize(("skipped", "kind"), [(True, Passed), (False, Findings)])
def test_a_step_that_the_loss_scaler_skipped_is_silent(skipped, kind):
    made = broken(kind="gradient-nonfinite", loss=falling(30))
    made.each_step(skipped=[skipped and i == 12 for i in range(30)])
    outcome = check(made)
    assert isinstance(outcome, kind)
    if skipped:
        assert "1 step skipped by the loss scaler" in outcome.measured


def test_finite_is_passed():
    made = Synthetic(30)
    made.loss(falling(30))
    made.alarm(10, "loss-jump")
    assert isinstance(check(made), Passed)


def test_of_several_ranks_the_rank_that_made_it_is_named():
    summed = broken(origin(operation=None, phase=None, reason="the replay stayed finite")).build()
    culprit = broken(origin()).build()
    culprit.run["rank"] = 1
    joined = summed.with_shards({"rank1": culprit}, ())
    finding = only(rule.check(joined, None))
    assert (finding.origin.rank, finding.origin.operation) == (1, "log")
    assert "at step 12 of rank 1, in the forward pass" in finding.summary


def test_why_nothing_was_found_is_told():
    finding = only(check(broken(origin(operation=None, phase=None, reason="inputs changed"))))
    assert finding.origin is None
    assert finding.causes == ("Not narrowed down: inputs changed.",)


def test_the_operations_own_line_wins_over_that_of_backward():
    made = broken(origin(operation="pow", exact=False))
    made.alarm(12, "loss-nonfinite", origin=origin(operation="div", exact=True))
    assert only(check(made)).origin.operation == "div"
    made = broken(origin(operation="div", exact=True))
    made.alarm(12, "gradient-nonfinite", origin=origin(operation="pow", exact=False))
    assert only(check(made)).origin.operation == "div"


def test_values_and_shapes_are_handed_on():
    operand = {
        "role": "input", "shape": [4, 2], "dtype": "float32", "min": 0.0, "max": 1.0, "nan": 0,
        "inf": 0, "at": 0.0,
    }  # fmt: skip
    (seen,) = only(check(broken(origin(operands=[operand])))).origin.operands
    assert (seen.role, seen.shape, seen.low, seen.high, seen.at) == ("input", (4, 2), 0.0, 1.0, "0")
