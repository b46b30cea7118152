"""Verdicts on modules whose gradient is right or wrong by construction.

The faults multiply, cut or bend the gradient of a function that PyTorch differentiates rightly, so
what is wrong, where and by how much is known beforehand.
"""

import math

import pandas as pd
import pytest
import torch
from torch import nn
from torch.autograd import Function

import gradscope


class Bend(Function):
    """The sine; ``bend`` changes the gradient."""

    @staticmethod
    def forward(ctx, x, bend):
        ctx.bend = bend
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.bend(grad * x.cos()), None


class Faulty(nn.Module):
    """tanh of a linear layer, whose gradient is bent between the two."""

    def __init__(self, bend):
        super().__init__()
        self.lin, self.bend = nn.Linear(6, 6), bend

    def forward(self, x):
        return torch.tanh(Bend.apply(self.lin(x), self.bend))


def net(middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), middle, nn.ReLU(), nn.Linear(6, 2))


def checked(middle, *shape, **options):
    model = net(middle)
    torch.manual_seed(1)
    return gradscope.gradcheck(model, (torch.randn(*(shape or (5, 6))),), **options)


def only(result):
    assert result.verdict == "wrong", result
    (finding,) = result.findings
    return finding


def one_element(grad):
    out = grad.clone()
    out.view(-1)[7] *= 1.1
    return out


def first_half(grad):
    out = grad.clone()
    out[:, :3] *= 0.5
    return out


KINDS = {
    "factor": lambda g: 0.5 * g,
    "sign": lambda g: -g,
    "blocked": torch.zeros_like,
    "elements": first_half,
    "other": lambda g: g.roll(1, -1),
    "non-finite": lambda g: torch.where(g > 0, g, g / 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_and_the_module_are_said(kind):
    class Leaf(nn.Module):
        def forward(self, x):
            return Bend.apply(x, KINDS[kind])

    finding = only(checked(Leaf()))
    assert (finding.modules, finding.kind) == (("1",), kind)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-4, 1e-5])
def test_a_factor_is_measured_to_its_last_digits(size):
    finding = only(checked(Faulty(lambda g: (1 + size) * g)))
    assert finding.modules == ("1",)
    ratios = [e.value for e in finding.evidence if e.name == "backward over true derivative"]
    if finding.kind == "factor":
        assert ratios[0] == pytest.approx(1 + size, abs=size / 20)


@pytest.mark.parametrize("size", [1e-8, 1e-9])
def test_what_single_precision_constants_explain_is_right(size):
    assert checked(Faulty(lambda g: (1 + size) * g)).verdict == "right"


def test_one_element_of_4096_off_by_a_tenth_is_found_with_its_index():
    class Leaf(nn.Module):
        def forward(self, x):
            return Bend.apply(x, one_element)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), Leaf())
    finding = only(gradscope.gradcheck(model, (torch.randn(64, 8),)))
    assert (finding.modules, finding.kind) == (("1",), "elements")
    assert "Worst elements: [0, 7]." in finding.why


def test_two_faults_are_two_findings_and_what_is_around_them_none():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Faulty(lambda g: 2 * g)
            self.last = nn.Linear(6, 6)

        def forward(self, x):
            return x.detach() + self.last(self.inner(x))

    result = checked(nn.Sequential(Around(), nn.Tanh()))
    assert {f.modules[0] for f in result.findings} == {"1.0", "1.0.inner"}


def test_a_branch_that_is_detached_names_its_line():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 6)

        def forward(self, x):
            return x + self.lin(x).detach()

    finding = only(checked(Branch()))
    assert finding.modules == ("1",)
    assert {"1.lin.weight", "1.lin.bias"} <= set(finding.parameters)
    assert finding.location.file.endswith("test_verdicts.py")
    assert "`detach` at" in finding.why


def test_the_second_derivative_is_checked_where_asked():
    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * grad * x.detach() ** 2

    class Leaf(nn.Module):
        def forward(self, x):
            return Cube.apply(x)

    assert checked(Leaf()).verdict == "right"
    finding = only(checked(Leaf(), second_order=True))
    assert (finding.modules, finding.kind, finding.severity) == (
        ("1",), "second-derivative", "warning",
    )  # fmt: skip
    assert checked(nn.Tanh(), second_order=True).verdict == "right"


def test_forward_mode_against_reverse_mode():
    class Square(Function):
        factor = 2.0

        @staticmethod
        def forward(x):
            return x * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * grad * x

        @classmethod
        def _factor(cls):
            return cls.factor

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return Square.factor * tangent * x

    class Leaf(nn.Module):
        def forward(self, x):
            return Square.apply(x)

    assert checked(Leaf()).verdict == "right"
    Square.factor = 3.0
    finding = only(checked(Leaf()))
    assert finding.modules == ("1",)
    assert "`jvp` of `Square` disagrees" in finding.why


def test_single_precision_against_double_precision():
    class Cancels(Function):
        """(e^x - 1) / x: the forward pass is exact, the backward pass subtracts equal numbers."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.special.expm1(x) / x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * (x * x.exp() - (x.exp() - 1)) / (x * x)

    class Leaf(nn.Module):
        def forward(self, x):
            return Cancels.apply(x)

    torch.manual_seed(0)
    x = 1e-3 * torch.randn(4, 6)
    finding = only(gradscope.gradcheck(Leaf(), (x,)))
    assert (finding.kind, finding.severity) == ("precision", "warning")
    assert gradscope.gradcheck(Leaf(), (x,), precision=False).verdict == "right"
    assert gradscope.gradcheck(Leaf(), (1 + torch.rand(4, 6),)).verdict == "right"


def test_what_changes_with_the_clock_is_never_wrong():
    class Clock(nn.Module):
        def __init__(self):
            super().__init__()
            self.ticks = iter(range(10_000_000))

        def forward(self, x):
            return x * (1 + 1e-2 * math.sin(next(self.ticks)))

    result = checked(Clock())
    assert result.verdict == "inconclusive"
    assert "`1`" in result.reason
    assert "not deterministic" in result.reason


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        (nn.Linear(3, 2), (torch.full((4, 3), float("nan")),), "NaN at the evaluation point"),
        (nn.Embedding(4, 3).requires_grad_(False), (torch.tensor([1, 2]),), "nothing to check"),
        (nn.Flatten(), (torch.tensor([[1]]),), "nothing to check"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(model, args, says):
    result = gradscope.gradcheck(model, args)
    assert result.verdict == "inconclusive"
    assert says in result.reason
    assert "\n" not in result.reason
    assert result.findings == ()


def test_a_model_that_does_not_run_in_double_precision_is_checked_in_its_own():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 6)

        def forward(self, x):
            if x.dtype == torch.float64:
                raise TypeError("float32 only")
            return torch.tanh(self.lin(x))

    result = gradscope.gradcheck(Stubborn(), (torch.randn(4, 6),))
    assert result.verdict == "right"
    assert "does not run in double precision (TypeError: float32 only)" in result.notes[0]


def test_nothing_of_the_users_is_changed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    x = torch.randn(4, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    gradscope.gradcheck(model, (x,))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert not x.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_the_frame_has_a_row_for_each_module_and_tensor():
    frame = checked(nn.Tanh()).to_frame()
    assert isinstance(frame, pd.DataFrame)
    rows = set(zip(frame["module"], frame["tensor"], strict=True))
    assert rows == {
        ("0", "input 0"), ("0", "weight"), ("0", "bias"), ("1", "input 0"), ("2", "input 0"),
        ("3", "input 0"), ("3", "weight"), ("3", "bias"), ("", "input 0"),
    }  # fmt: skip
    assert (frame["verdict"] == "right").all()
    assert ((frame["ratio"] - 1).abs() < 1e-6).all()


def test_little_time_gives_fewer_directions_and_says_so():
    result = checked(nn.Tanh(), seconds=1e-4)
    assert result.verdict == "right"
    assert any("time budget of 0.0001 s" in note for note in result.notes)


def test_inputs_that_require_grad_are_the_ones_that_are_checked():
    class Two(nn.Module):
        def forward(self, a, b):
            return a * b.detach()

    torch.manual_seed(0)
    a, b = torch.randn(3), torch.randn(3)
    assert gradscope.gradcheck(Two(), (a.clone().requires_grad_(), b)).verdict == "right"
    both = gradscope.gradcheck(Two(), (a.clone().requires_grad_(), b.clone().requires_grad_()))
    assert only(both).kind == "blocked"


def test_a_loss_that_is_wrong_is_named_loss():
    class HalfMean(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.shape = x.shape
            return x.mean()

        @staticmethod
        def backward(ctx, grad):
            return grad.expand(ctx.shape) / ctx.shape.numel() / 2

    torch.manual_seed(0)
    model, x = nn.Linear(6, 2), torch.randn(4, 6)
    finding = only(gradscope.gradcheck(model, (x,), loss=HalfMean.apply))
    assert (finding.modules, finding.kind) == (("loss",), "factor")
    assert gradscope.gradcheck(model, (x,), loss=torch.mean).verdict == "right"
