"""``gradscope.gradcheck`` and ``assert_backward`` as a test suite uses them."""

import json

import pytest
import torch
from torch import nn
from torch.autograd import Function

import gradscope
from gradscope.errors import UsageError


class Half(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 0.5 * grad * x.exp()


class Leaf(nn.Module):
    def forward(self, x):
        return Half.apply(x)


def faulty():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), Leaf())


def test_the_result_says_what_is_wrong():
    result = gradscope.gradcheck(faulty(), (torch.randn(2, 3),))
    assert isinstance(result, gradscope.GradcheckResult)
    assert (result.verdict, result.reason) == ("wrong", "")
    assert [f.modules for f in result.findings] == [("1",)]
    assert isinstance(result.findings[0], gradscope.Finding)
    assert repr(result) == "<GradcheckResult wrong: '1'>"
    assert "0.5 times the true derivative" in str(result)
    with pytest.raises(AssertionError, match=r"0\.5 times the true derivative"):
        result.raise_if_wrong()
    with pytest.raises(gradscope.GradscopeError):
        result.raise_if_wrong()


def test_right_raises_nothing():
    result = gradscope.gradcheck(nn.Linear(3, 2), (torch.randn(2, 3),))
    assert (result.verdict, result.findings) == ("right", ())
    result.raise_if_wrong()


def test_assert_backward():
    x = torch.randn(2, 3)
    gradscope.assert_backward(nn.Linear(3, 2), x)
    with pytest.raises(AssertionError, match="the true derivative"):
        gradscope.assert_backward(faulty(), x)
    with pytest.raises(AssertionError, match="cannot be told"):
        gradscope.assert_backward(nn.Linear(3, 2), torch.full((2, 3), float("nan")))


def test_by_design_is_a_note():
    class Step(Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Rounds(nn.Module):
        def forward(self, x):
            return Step.apply(x)

    result = gradscope.gradcheck(Rounds(), (torch.randn(4, 3) * 3,))
    assert result.verdict == "by-design"
    assert [(f.severity, f.kind) for f in result.findings] == [("note", "straight-through")]
    result.raise_if_wrong()
    gradscope.assert_backward(Rounds(), torch.randn(4, 3) * 3)


def test_reports_are_written_in_every_format(tmp_path):
    result = gradscope.gradcheck(faulty(), (torch.randn(2, 3),))
    assert result.report(tmp_path / "a.html").stat().st_size > 20_000
    document = json.loads(result.report(tmp_path / "a.json").read_text())
    assert document["command"] == "gradcheck"
    assert document["findings"][0]["kind"] == "factor"


def test_nothing_is_written_for_a_module_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gradscope.gradcheck(faulty(), (torch.randn(2, 3),))
    assert list(tmp_path.iterdir()) == []
    gradscope.gradcheck(faulty(), (torch.randn(2, 3),), run_dir="run")
    frame = gradscope.load_run("run").gradchecks
    assert set(frame["verdict"]) == {"right", "wrong"}
    assert frame.loc[frame["verdict"] == "wrong", "kind"].tolist() == ["factor"]


def test_arguments_that_do_not_belong_are_refused(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    with pytest.raises(UsageError, match="belong to a module"):
        gradscope.gradcheck(file, (torch.ones(1, 2),))
    with pytest.raises(UsageError, match="directions cannot be 0"):
        gradscope.gradcheck(nn.Linear(2, 2), (torch.ones(1, 2),), directions=0)


def test_a_model_that_fails_is_the_users_error_with_their_traceback():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    with pytest.raises(gradscope.GradscopeError, match="ValueError: not today") as caught:
        gradscope.gradcheck(Fails(), (torch.ones(2),))
    assert caught.value.exit_code == 3
    assert "not today" in caught.value.user_traceback


def test_progress_is_told_and_ends_with_all_done():
    told = []
    gradscope.gradcheck(faulty(), (torch.randn(2, 3),), progress=lambda *now: told.append(now))
    assert told[0][:2] == (0, 3)
    assert told[-1] == (3, 3, "")
