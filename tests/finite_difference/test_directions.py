"""The difference quotient and its error bar, against functions whose derivative is known."""

import math

import pytest
import torch

from gradscope.finite_difference.checking import smallest_seen
from gradscope.finite_difference.directions import Comparison, Line, Steps, quotient
from gradscope.finite_difference.sampling import along, differ, draw
from gradscope.finite_difference.unit import Unit, input_leaf
from gradscope.observe.experiment.frozen import Frozen


def unit(function, x):
    leaf = input_leaf("input 0", x)
    made = Unit("m", function, (x,), {}, [leaf], Frozen(), by_path={"0.0": leaf})
    made.choose_outputs()
    return made, leaf


def line(function, x, weights=None):
    made, leaf = unit(function, x)
    center = made.outputs()
    ones = [torch.ones_like(c) for c in center] if weights is None else weights
    return Line(made, {leaf: torch.ones_like(leaf.base)}, ones, center)


SMOOTH = {
    "sin": (torch.sin, math.cos),
    "exp": (torch.exp, math.exp),
    "stiff sine": (lambda x: torch.sin(200 * x), lambda x: 200 * math.cos(200 * x)),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "tiny": (lambda x: 1e-9 * x**2, lambda x: 2e-9 * x),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("at", [0.3, -1.7, 2.2])
def test_the_error_bar_holds_the_true_derivative_and_is_small(name, at):
    function, derivative = SMOOTH[name]
    x = torch.tensor([at], dtype=torch.float64)
    value, bar = quotient(line(function, x), Steps.of(2.0**-52), abs(derivative(at)))
    assert abs(value - derivative(at)) <= bar
    assert bar <= 1e-6 * abs(derivative(at))


def test_rounding_inside_shows_in_the_error_bar():
    def rounds(x):
        return x.to(torch.float32).sin().to(torch.float64)

    x = torch.tensor([0.7], dtype=torch.float64)
    value, bar = quotient(line(rounds, x), Steps.of(2.0**-52), 1.0)
    assert abs(value - math.cos(0.7)) <= 20 * bar
    assert bar > 1e-8


@pytest.mark.parametrize(("at", "stays"), [(0.0, True), (1e-9, True), (0.5, False)])
def test_a_kink_is_told_by_a_gap_that_does_not_shrink(at, stays):
    x = torch.full((3,), at, dtype=torch.float64)
    made = line(torch.relu, x)
    one, two = made.at(1e-4), made.at(1e-5)
    found = Comparison(0.0, 1.5, 1e-12, 1.5, (one, two), 1e-9)
    assert found.gap_stays is stays


def test_what_is_infinite_at_the_point_does_not_count():
    mask = torch.tensor([0.0, float("-inf")], dtype=torch.float64)
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    made, leaf = unit(lambda t: t * t + mask, x)
    drawn = draw(made, 0, 0)
    assert float(drawn.weights[0][1]) == 0.0
    assert along(made, drawn, [leaf]).agrees


def test_overlapping_inputs_are_moved_in_their_memory():
    base = torch.randn(9, dtype=torch.float64)
    windows = base.unfold(0, 3, 2)
    made, leaf = unit(lambda t: (t**2).sum(-1), windows)
    assert leaf.base.shape == (9,)
    drawn = draw(made, 0, 0)
    # element 2 stands in two windows, so its derivative is the sum of both
    expected = 2 * base[2] * (drawn.weights[0][0] + drawn.weights[0][1])
    assert torch.allclose(drawn.gradients[leaf][2], expected)
    assert along(made, drawn, [leaf]).agrees


def test_complex_gradients_are_those_of_a_real_loss():
    z = torch.randn(4, dtype=torch.complex128)
    made, leaf = unit(lambda t: (t * t.conj().roll(1)).tanh(), z)
    assert along(made, draw(made, 0, 0), [leaf]).agrees


def test_the_smallest_fault_seen_is_seen_as_often_as_is_said():
    comparison = Comparison(1.0, 1.0, 0.0, 1.0, (), 1e-6)
    size = smallest_seen(comparison, directions=2)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, 2, generator=generator, dtype=torch.float64).abs()
    seen = (size * z > comparison.tolerance).any(dim=1).double().mean()
    assert abs(float(seen) - 0.99) < 0.002


def test_two_evaluations_within_rounding_do_not_differ():
    one = [torch.tensor([1.0, float("inf")], dtype=torch.float64)]
    assert differ(one, [one[0] * (1 + 2.0**-50)], 2.0**-52) == 0.0
    assert differ(one, [torch.tensor([1.001, float("inf")]).double()], 2.0**-52) > 9e-4
    assert differ(one, [torch.tensor([1.0, 2.0]).double()], 2.0**-52) == math.inf
