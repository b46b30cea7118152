import math

import numpy as np
import pytest
from synthetic import Synthetic, falling

from gradscope.diagnose.finding import Location
from gradscope.diagnose.rule import Findings, Passed
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
