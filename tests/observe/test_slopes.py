"""Slopes and unit states against autograd."""

import pytest
import torch
from torch import nn

from gradscope.observe.reading import slopes, units
from gradscope.recording.facts import Activation

MODULES = [nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(),
           nn.Hardtanh(), nn.Hardtanh(-2, 2), nn.Hardsigmoid(), nn.Softplus()]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_slope_is_the_derivative_over_its_largest_value(module):
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x).sum(), x)
    kind = slopes.module_kind(module)
    slope = slopes.slope_from_input(kind, x.detach(), slopes.bounds_of(module))
    expected = gradient.abs() / gradient.abs().max()
    assert torch.allclose(slope, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("module", "function"),
    [(nn.Sigmoid(), torch.sigmoid), (nn.Tanh(), torch.tanh), (nn.ReLU(), torch.relu)],
)
def test_slope_from_output_equals_slope_from_input(module, function):
    x = torch.randn(100, dtype=torch.float64)
    kind = slopes.module_kind(module)
    assert torch.allclose(
        slopes.slope_from_output(kind, function(x)), slopes.slope_from_input(kind, x)
    )


@pytest.mark.parametrize("function", ["relu", "sigmoid", "tanh", "gelu", "silu", "elu", "softplus"])
def test_a_functional_activation_is_found_behind_the_next_layers_input(function):
    torch.manual_seed(0)
    activation = getattr(nn.functional, function)
    hidden = nn.Linear(5, 7)(torch.randn(20, 5)) * 3
    reading = units.read_function(activation(hidden).view(20, 7))
    assert reading.kind.name == function.upper()
    truth = slopes.slope_from_input(reading.kind, hidden.detach())
    assert torch.allclose(reading.slope, truth.mean(0), atol=1e-6)
    assert torch.equal(reading.active, (truth >= 0.05).any(0))
    assert reading.units == 7


def test_no_activation_means_no_reading():
    hidden = nn.Linear(5, 7)(torch.randn(20, 5))
    assert units.read_function(hidden) is None
    assert units.read_function(hidden + 1) is None
    assert units.read_function(torch.randn(3, 4)) is None


def test_units_are_channels_after_convolutions_and_features_after_linear_layers():
    image = nn.Conv2d(3, 11, 3)(torch.randn(2, 3, 8, 8))
    assert units.unit_axis(image, image.grad_fn) == 1
    sequence = nn.Linear(4, 9)(torch.randn(2, 6, 4))
    assert units.unit_axis(sequence, sequence.grad_fn) == 2
    signal = nn.BatchNorm1d(5)(torch.randn(2, 5, 8))
    assert units.unit_axis(signal, signal.grad_fn) == 1


def test_dead_and_living_relu_units_are_told_apart():
    linear = nn.Linear(4, 6)
    with torch.no_grad():
        linear.bias[:2] = -100
        linear.bias[2:] = 1.0
    x = linear(torch.randn(50, 4))
    reading = units.read_module(Activation.RELU, x, nn.ReLU())
    assert reading.active.tolist() == [False, False, True, True, True, True]
    packed, active, _ = units.pack(reading)
    assert active == 4
    assert len(packed) == 1 + 6
    assert packed[0] == 0b111100


def test_calls_merge_by_or_and_weighted_mean():
    rows = [torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])]
    merged = units.merge([units.read_module(Activation.RELU, x, nn.ReLU()) for x in rows])
    assert merged.positions == 3
    assert merged.active.tolist() == [True, True]
    assert merged.slope.tolist() == pytest.approx([2 / 3, 1 / 3])
