import importlib.util
import math
import re

import pytest
import torch

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.rule import Findings, Passed, Undecided
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules.wrong_backward import KINDS, WrongBackward

rule = WrongBackward()
DESIGNED = ("straight-through", "gradient-reversal")


def row(module=1, tensor="input 0", verdict="right", kind=None, **facts):
    record = {
        "module": module, "tensor": tensor, "verdict": verdict, "kind": kind, "analytic": 1.0,
        "numeric": 1.0, "error_bar": 1e-8, "detail": None,
    }  # fmt: skip
    return record | facts


def recorded(folder, *rows):
    """A recording as a check on disk leaves it: a root, two modules, a parameter, the result."""
    writer = Writer(folder)
    names = [("", "Net"), ("0", "Swish"), ("1", "Scale")]
    writer.records(
        "modules",
        [
            {"module": i, "root": 0, "path": path, "type": kind, "file": "net.py", "line": 3 + i}
            for i, (path, kind) in enumerate(names)
        ],
    )
    writer.records(
        "parameters",
        [{"parameter": 0, "root": 0, "path": "1.weight", "module": 2, "shape": [4], "count": 4}],
    )
    writer.records("gradchecks", rows)
    writer.close()
    return load_run(folder)


@pytest.fixture
def check(tmp_path):
    def checked(*rows):
        return rule.check(recorded(tmp_path / "run", *rows), WrongBackward.options)

    return checked


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def test_a_training_without_a_check_is_not_applicable(tmp_path):
    found = diagnose(recorded(tmp_path / "run"), [WrongBackward])
    assert [o.reason for _, o in found.not_applicable] == [
        "backward passes were not compared with finite differences in this run"
    ]


def test_all_right(check):
    outcome = check(row(), row(module=2, tensor="weight", analytic=1.0 + 3e-8))
    assert isinstance(outcome, Passed)
    assert outcome.measured == (
        "all of 2 derivatives agree with finite differences, the worst to 3 error bars"
    )


def test_what_it_says(check):
    finding = only(
        check(row(), row(2, "weight", "wrong", "factor", analytic=2.0, detail={"reason": "Why."}))
    )
    assert finding.summary == (
        "The gradient of `1` with respect to its weight is 2 times the true derivative."
    )
    assert finding.modules == ("1",)
    assert finding.parameters == ("1.weight",)
    assert str(finding.location) == "net.py:5"
    assert finding.why.endswith(" Why.")
    assert (finding.kind, finding.severity, finding.confidence) == ("factor", "critical", "certain")


def test_one_finding_for_each_module_about_its_worst_tensor(check):
    outcome = check(
        row(1, "input 0", "wrong", "elements", analytic=1.1),
        row(1, "input 1", "wrong", "sign", analytic=-1.0),
        row(2, "input 0", "wrong", "blocked", analytic=0.0),
    )
    first, second = outcome.findings
    assert (first.modules, first.kind) == (("0",), "sign")
    assert "its input 1 has the wrong sign (also wrong: `input 0`)" in first.summary
    assert (second.modules, second.kind) == (("1",), "blocked")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words_and_a_severity(check, kind):
    verdict = "by-design" if kind in DESIGNED else "wrong"
    finding = only(check(row(1, "input 0", verdict, kind, analytic=3.0)))
    assert finding.kind == kind
    assert finding.severity == KINDS[kind].severity
    assert (finding.severity == "note") == (kind in DESIGNED)
    assert finding.summary.startswith("The gradient of `0` with respect to its input 0 ")
    assert "{" not in finding.summary


@pytest.mark.parametrize("kind", ["new-word", None])
def test_a_kind_of_a_later_version_is_other(check, kind):
    assert only(check(row(1, "input 0", "wrong", kind))).kind == "other"


def test_by_design_is_a_note_and_a_fault_beside_it_is_not(check):
    designed = row(1, "input 0", "by-design", "straight-through", analytic=1.0, numeric=0.0)
    assert only(check(designed)).severity == "note"


def test_a_fault_beside_what_is_by_design_speaks_for_the_module(check):
    designed = row(1, "input 0", "by-design", "straight-through", analytic=9.0, numeric=0.0)
    finding = only(check(designed, row(1, "weight", "wrong", "sign", analytic=-1.0)))
    assert (finding.kind, finding.severity) == ("sign", "critical")


def test_what_is_wrong_under_the_name_of_a_design_is_a_warning(check):
    assert only(check(row(1, "input 0", "wrong", "straight-through"))).severity == "warning"


@pytest.mark.parametrize(("bars", "confidence"), [(9.9, "strong"), (10.1, "certain")])
def test_confidence_by_error_bars(check, bars, confidence):
    wrong = row(1, "input 0", "wrong", "precision", analytic=1 + bars * 1e-3, error_bar=1e-3)
    assert only(check(wrong)).confidence == confidence


def test_a_derivative_that_is_no_number_is_certain(check):
    finding = only(check(row(1, "input 0", "wrong", "non-finite", analytic=math.nan)))
    assert finding.confidence == "certain"
    assert finding.evidence[-1].value == math.inf


def test_without_a_verdict_it_is_undecided(check):
    kink = row(2, "input 0", "inconclusive", detail={"reason": "a kink lies within every step"})
    outcome = check(row(), kink)
    assert isinstance(outcome, Undecided)
    assert outcome.missing == (
        "1 comparison of 2 came to no verdict (`1`): a kink lies within every step"
    )


@pytest.mark.parametrize(("heading", "right"), [("Broken", False), ("Mended", True)])
def test_the_pages_scripts_are_what_they_say(tmp_path, heading, right):
    """The oracle is PyTorch's own gradcheck, on the page's module in float64."""
    text = re.search(
        rf"^## {heading} example\n.*?^```python\n(.*?)^```", WrongBackward.page(), re.M | re.S
    )
    file = tmp_path / f"{heading.lower()}_page.py"
    file.write_text(text.group(1))
    assert text.group(1).startswith("# gradscope: command=gradcheck\n")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    agree = torch.autograd.gradcheck(module.Activation(), (x,), raise_exception=False)
    assert agree == right
    assert module.loss(module.model(module.batches[0][0]), module.batches[0][1]).isfinite()
