"""The figure of a finite-difference check: its curve, its table, its statement."""

import math

import torch
from torch import nn
from torch.autograd import Function

import gradscope
from gradscope.report.figures.gradient_check import gradient_check_figure
from gradscope.report.html import render


class Cubes(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x**2


class Leaf(nn.Module):
    def forward(self, x):
        return Cubes.apply(x)


def result(model):
    torch.manual_seed(0)
    return gradscope.gradcheck(model, (torch.randn(3, 4),))


def test_the_curve_is_a_v_and_the_fault_lies_above_its_lowest_point():
    figure = gradient_check_figure(
        result(nn.Sequential(nn.Linear(4, 4), Leaf())).diagnosis.recording
    )
    curve, level = figure.plot.data
    errors = dict(zip(curve.x, curve.y, strict=True))
    steps = sorted(errors)
    lowest = min(errors, key=errors.get)
    assert steps[0] < lowest < steps[-1]
    assert errors[steps[0]] > errors[lowest] + 1
    assert errors[steps[-1]] > errors[lowest] + 3
    # 2 x^2 against 3 x^2: one third is missing
    assert math.isclose(level.y[0], math.log10(1 / 3), abs_tol=0.01)
    assert level.y[0] > errors[lowest] + 6


def test_every_tensor_stands_in_the_table_the_wrong_ones_first():
    found = result(nn.Sequential(nn.Linear(4, 4), Leaf()))
    figure = gradient_check_figure(found.diagnosis.recording)
    assert len(figure.table.rows) == len(found.to_frame())
    assert figure.table.rows[0][:2] == ("1, input 0", "wrong (factor)")
    assert figure.reading.startswith("1 of 5 derivatives is wrong, in 1 module.")


def test_a_pass_says_what_it_means_and_draws_nothing():
    figure = gradient_check_figure(result(nn.Linear(4, 2)).diagnosis.recording)
    assert figure.plot is None
    assert figure.reading.startswith(
        "All of 3 derivatives are right. Where it says right, a fault of"
    )
    assert "probability of 99 %" in figure.reading


def test_the_page_has_the_section_and_no_empty_training():
    page = render(result(nn.Sequential(nn.Linear(4, 4), Leaf())).diagnosis)
    assert 'id="backward"' in page
    assert 'id="training"' not in page
    assert 'href="#training"' not in page
    assert "at step 0" not in page
