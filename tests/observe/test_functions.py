"""Custom Functions seen and replaced, also under a name that nobody patched."""

import pytest
import torch
from torch import nn
from torch.autograd import Function

from gradscope.observe.capture import Capture, named
from gradscope.observe.experiment.function_capture import FunctionCapture
from gradscope.observe.experiment.function_replacement import FunctionReplacement
from gradscope.observe.experiment.functions import place_of
from gradscope.observe.experiment.linear_map import spread, spread_back
from gradscope.observe.experiment.stand_in import ModuleReplacement


class Wrong(Function):
    @staticmethod
    def forward(ctx, x, power):
        ctx.save_for_backward(x)
        return x**power

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class NewStyle(Function):
    @staticmethod
    def forward(x):
        return x.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad


wrong = Wrong.apply


class Uses(nn.Module):
    def forward(self, x):
        return wrong(x, 3)


def central(function, x, move, step=1e-6):
    return (function(x + step * move) - function(x - step * move)) / (2 * step)


def test_a_call_is_seen_with_its_module_and_its_arguments():
    model = nn.Sequential(Uses())
    x = torch.tensor([2.0], requires_grad=True)
    modules = Capture(named(model))
    with modules, FunctionCapture(modules) as functions:
        model(x)
    (call,) = functions.calls
    assert (call.cls, call.module, call.wanted) == (Wrong, model[0], frozenset({0}))
    assert call.args[1] == 3
    assert float(call.output) == 8.0
    assert "forward" in vars(Wrong)
    assert float(Uses()(x.detach())) == 8.0


@pytest.mark.parametrize("function", [lambda x: wrong(x, 3), NewStyle.apply])
def test_a_replacement_has_the_value_and_an_exact_backward(function):
    torch.manual_seed(0)
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, dtype=torch.float64)
    true = function(x).detach()
    with FunctionReplacement(lambda index, cls: cls in (Wrong, NewStyle)) as replaced:

        def value(point):
            replaced.begin()
            return function(point)

        assert torch.equal(value(x), true)
        (grad,) = torch.autograd.grad((value(x) * weights).sum(), x)
        move = torch.randn(4, dtype=torch.float64)
        numeric = (central(value, x.detach(), move) * weights).sum()
    assert torch.allclose((grad * move).sum(), numeric, rtol=1e-8)
    (wrong_again,) = torch.autograd.grad(function(x).sum(), x)
    assert torch.equal(wrong_again, torch.ones_like(x))


@pytest.mark.parametrize(
    ("source", "target"), [((3, 4), (2,)), ((2,), (3, 4)), ((5,), (5,)), ((3,), ())]
)
@pytest.mark.parametrize(
    "kinds",
    [
        (torch.float64, torch.float64),
        (torch.complex128, torch.float64),
        (torch.float64, torch.complex128),
    ],
)
def test_spread_back_is_the_adjoint(source, target, kinds):
    torch.manual_seed(0)
    x = torch.randn(source, dtype=kinds[0], requires_grad=True)
    y = spread(x, torch.Size(target), kinds[1])
    u = torch.randn(target, dtype=kinds[1])
    (grad,) = torch.autograd.grad((y * u.conj()).real.sum(), x)
    assert torch.allclose(spread_back(u, torch.Size(source), kinds[0]), grad)


def test_a_module_is_replaced_with_its_hooks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), Uses()).double()
    model[1].register_full_backward_hook(lambda m, gi, go: (7 * gi[0],))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    true = model(x).detach()
    move = torch.randn(2, 3, dtype=torch.float64)
    with ModuleReplacement([model[1]]) as replaced:

        def value(point):
            replaced.begin()
            return model(point)

        assert torch.equal(value(x), true)
        (grad,) = torch.autograd.grad(value(x).sum(), x)
        numeric = central(value, x.detach(), move).sum()
    assert torch.allclose((grad * move).sum(), numeric, rtol=1e-8)
    assert len(model[1]._backward_hooks) == 1
    assert "forward" not in vars(model[1])


def test_the_place_is_the_line_of_backward():
    file, line = place_of(Wrong)
    with open(file, encoding="utf-8") as text:  # noqa: PTH123
        lines = text.read().splitlines()
    assert lines[line - 1].strip() == "def backward(ctx, grad):"
    assert lines[line].strip() == "return grad, None"
