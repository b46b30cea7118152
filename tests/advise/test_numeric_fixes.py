"""add-epsilon, clamp and log-softmax on the line that made the first NaN or Inf."""

from __future__ import annotations

import pytest
import torch

from gradscope.diagnose.finding import Location, Origin

HEAD = """
import torch
import torch.nn.functional as F
from torch import nn

model = nn.Linear(2, 2)


"""
LINES = {
    "function": ("log", "torch.log(x)"),
    "method": ("log", "x.log()"),
    "product": ("log", "(x * 2).log()"),
    "argument-product": ("log", "torch.log((x * 2))"),
    "twice": ("log", "torch.log(x) + torch.log(1 - x)"),
    "root": ("sqrt", "torch.sqrt(x)"),
    "root-method": ("sqrt", "(x * 2).sqrt()"),
    "reciprocal-root": ("rsqrt", "x.rsqrt()"),
    "division": ("div", "1 / x"),
    "division-bracket": ("div", "(2 / (x * 3))"),
    "division-in-call": ("div", "torch.abs(1 / x)"),
    "negative": ("div", "1 / -x"),
    "conditional": ("log", "torch.log(x if True else x)"),
    "several-lines": ("log", "(\n        torch.log(\n            x\n        )\n    )"),
}


def made_at(study, code, operation, phase="forward", **run):
    text = HEAD + f"def f(x):\n    return {code}\n"
    done = study(text, 2).run_facts(**run)
    first = 1 + done.text[: done.text.index("return")].count("\n")
    line = first + (1 if "(\n" in code else 0)
    origin = Origin(operation, phase, "", Location(done.file, line), (3,), "p is 0 in sample 3")
    return done, origin


def finite_at_zero(function):
    """Whether value and derivative are finite at 0."""
    x = torch.zeros(1, requires_grad=True)
    y = function(x)
    y.sum().backward()
    return bool(torch.isfinite(y).all() and torch.isfinite(x.grad).all())


@pytest.mark.parametrize("case", LINES)
def test_a_constant_keeps_the_operand_off_zero(study, case):
    operation, code = LINES[case]
    done, origin = made_at(study, code, operation)
    fix = done.fixes("GS201", operation, origin=origin)["add-epsilon"]
    assert "p is 0 in sample 3" in fix.reason
    old, new = done.namespace["f"], done.ran(fix)["f"]
    usual = torch.tensor([0.25])
    assert not finite_at_zero(old)
    assert finite_at_zero(new)
    assert torch.allclose(new(usual), old(usual), rtol=1e-5)
    assert fix.applicability == "may-change-results"


@pytest.mark.parametrize("case", [c for c in LINES if "division" not in c and c != "negative"])
def test_a_bound_keeps_the_operand_in_the_domain(study, case):
    operation, code = LINES[case]
    done, origin = made_at(study, code, operation)
    fix = done.fixes("GS201", operation, origin=origin)["clamp"]
    old, new = done.namespace["f"], done.ran(fix)["f"]
    for value in (0.0, -1.0):
        assert torch.isfinite(new(torch.tensor([value]))).all()
    usual = torch.tensor([0.25])
    assert torch.equal(new(usual), old(usual))


@pytest.mark.parametrize(
    ("operation", "value"), [("exp", 1000.0), ("acos", 1.0), ("asin", -1.0), ("atanh", 1.0)]
)
def test_operations_with_other_bounds(study, operation, value):
    done, origin = made_at(study, f"torch.{operation}(x)", operation)
    fixes = done.fixes("GS201", operation, origin=origin)
    assert "add-epsilon" not in fixes
    x = torch.tensor([value], requires_grad=True)
    y = done.ran(fixes["clamp"])["f"](x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_the_constant_survives_float16(study):
    done, origin = made_at(study, "torch.log(x)", "log", dtype="float16")
    new = done.ran(done.fixes("GS201", "log", origin=origin)["add-epsilon"])["f"]
    assert torch.isfinite(new(torch.zeros(1, dtype=torch.float16))).all()


JOINED = {
    "functions": "torch.log(torch.softmax(x, dim=1))",
    "functional": "torch.log(F.softmax(x, 1))",
    "methods": "x.softmax(1).log()",
    "mixed": "torch.log((x * 1).softmax(dim=-1))",
    "sigmoid": "torch.log(torch.sigmoid(x))",
}


@pytest.mark.parametrize("case", JOINED)
def test_the_log_of_a_softmax_becomes_one_operation(study, case):
    done, origin = made_at(study, JOINED[case], "log")
    fixes = done.fixes("GS201", "log", origin=origin)
    assert next(iter(fixes)) == "log-softmax"
    assert fixes["log-softmax"].applicability == "exact"
    old, new = done.namespace["f"], done.ran(fixes["log-softmax"])["f"]
    far, near = torch.tensor([[200.0, -200.0]]), torch.tensor([[0.5, -0.25]])
    assert not torch.isfinite(old(far)).all()
    assert torch.isfinite(new(far)).all()
    assert torch.allclose(new(near), old(near))


def through_a_variable(study, between=""):
    text = (
        HEAD
        + f"def f(x):\n    p = torch.softmax(x, dim=1)\n{between}"
        + "    q = torch.log(p)\n    return q\n"
    )
    done = study(text, 2)
    line = 1 + done.text[: done.text.index("q =")].count("\n")
    return done, Origin("log", "forward", "", Location(done.file, line))


def test_the_softmax_may_stand_in_a_line_before(study):
    done, origin = through_a_variable(study)
    new = done.mended(done.fixes("GS201", "log", origin=origin)["log-softmax"])
    assert "    q = F.log_softmax(x, dim=1)\n" in new


@pytest.mark.parametrize(
    "between", ["    x = x * 2\n", "    p = p * 1\n", "    for x in [x]: pass\n"]
)
def test_but_not_where_its_input_or_result_changed_since(study, between):
    done, origin = through_a_variable(study, between)
    fixes = done.fixes("GS201", "log", origin=origin)
    assert "log-softmax" not in fixes
    assert "add-epsilon" in fixes


def test_data_that_hold_a_nan_are_left_out_and_not_patched_over(study):
    done, origin = made_at(study, "torch.log(x)", "log", phase="input")
    fixes = done.fixes("GS201", "input", origin=origin)
    assert list(fixes) == ["mask"]
    assert fixes["mask"].diff is None
    inputs, targets = torch.ones(3, 2), torch.arange(3)
    inputs[1, 0] = torch.nan
    names = {"torch": torch, "inputs": inputs, "targets": targets}
    exec(fixes["mask"].snippet, names)
    assert names["targets"].tolist() == [0, 2]


MASKED = {
    "functions": ("softmax", "torch.softmax(x, dim=1)"),
    "functional": ("softmax", "F.softmax(x * 1, 1)"),
    "method": ("log_softmax", "x.log_softmax(-1)"),
}


@pytest.mark.parametrize("case", MASKED)
def test_a_row_that_is_masked_entirely_gets_equal_weights(study, case):
    operation, code = MASKED[case]
    done, origin = made_at(study, code, operation)
    new = done.ran(done.fixes("GS201", operation, origin=origin)["mask"])["f"]
    old = done.namespace["f"]
    rows = torch.tensor([[-torch.inf, -torch.inf], [0.5, -torch.inf]], requires_grad=True)
    assert torch.isnan(old(rows)).any()
    made = new(rows)
    assert not torch.isnan(made).any()
    assert torch.allclose(made[1].exp(), old(rows)[1].exp()), "as before where something is left"
    made[0, 0].backward()
    assert torch.isfinite(rows.grad).all()


def test_a_target_that_is_too_long_is_masked(study):
    code = "F.ctc_loss(x, torch.tensor([[1, 2, 1]]), torch.tensor([2]), torch.tensor([3]))"
    done, origin = made_at(study, code, "ctc_loss")
    fix = done.fixes("GS201", "ctc_loss", origin=origin)["mask"]
    x = torch.randn(2, 1, 3).log_softmax(2)
    assert torch.isinf(done.namespace["f"](x))
    assert done.ran(fix)["f"](x) == 0


@pytest.mark.parametrize("code", ["x ** 0.5", "torch.pow(x, 0.5)", "x.pow(0.5)", "(x * 2) ** 0.3"])
def test_a_power_is_kept_off_zero(study, code):
    done, origin = made_at(study, code, "pow", phase="backward")
    fixes = done.fixes("GS201", "pow", origin=origin)
    for name in ("add-epsilon", "clamp"):
        assert finite_at_zero(done.ran(fixes[name])["f"]), name
    assert not finite_at_zero(done.namespace["f"])


def test_both_branches_of_where_have_to_be_safe(study):
    code = "torch.where(x > 0, torch.sqrt(x), x)"
    done, origin = made_at(study, code, "sqrt", phase="backward")
    fixes = done.fixes("GS201", "sqrt", origin=origin)
    for name in ("add-epsilon", "clamp"):
        assert "computes both branches" in fixes[name].reason
        assert finite_at_zero(done.ran(fixes[name])["f"]), name
    assert not finite_at_zero(done.namespace["f"])
    done, origin = made_at(study, "torch.sqrt(x)", "sqrt", phase="backward")
    assert "branches" not in done.fixes("GS201", "sqrt", origin=origin)["clamp"].reason


def test_without_an_origin_nothing_is_proposed(study):
    done, _ = made_at(study, "torch.log(x)", "log")
    assert done.fixes("GS201", "unknown") == {}


def test_a_line_without_the_operation_gets_a_snippet(study):
    done, origin = made_at(study, "F.mse_loss(x, x)", "log")
    fixes = done.fixes("GS201", "log", origin=origin)
    assert fixes["add-epsilon"].diff is None
    assert fixes["add-epsilon"].snippet == "torch.log(x + 1e-8)"
    assert fixes["add-epsilon"].applicability == "placeholders"
