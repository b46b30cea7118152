import numpy as np
import pytest
from synthetic_growth import recorded

from gradscope.diagnose.layer_growth import first_grown, layer_growth

END = 40


def steady(scale, noise=0.2, seed=0):
    return scale * np.exp(np.random.default_rng(seed).normal(0, noise, END))


def grown(scale, began, factor):
    series = steady(scale)
    series[began:] = scale * factor ** np.arange(1, END - began + 1)
    return series


def test_the_layer_that_grew_first_its_step_and_its_factor():
    run = recorded({"late": grown(1e-3, 30, 3.0), "early": grown(10.0, 25, 2.0), "calm": steady(5)})
    growth = first_grown(run, END)
    assert growth.parameter == "early.weight"
    assert abs(growth.began - 25) <= 1
    assert growth.factor == pytest.approx(2.0, rel=0.05)
    order = [g.parameter for g in layer_growth(run, END)]
    assert order == ["early.weight", "late.weight", "calm.weight"]


@pytest.mark.parametrize(
    "series", [steady(3.0), steady(1e-6, 0.8), steady(1.0) * np.linspace(1, 4, END)]
)
def test_noise_and_a_slow_drift_are_no_growth(series):
    assert first_grown(recorded({"a": series}), END) is None


def test_a_jump_that_came_back_is_none_either():
    series = steady(1.0)
    series[20:25] *= 1e4
    assert first_grown(recorded({"a": series}), END) is None


def test_what_the_trip_wire_saw_fills_the_steps_between():
    series = grown(1.0, 30, 3.0)
    sampled = recorded({"a": series}, every=10)
    assert len(layer_growth(sampled, END)[0].steps) == 4
    filled = recorded({"a": series}, every=10, ring=range(24, END))
    growth = first_grown(filled, END)
    assert abs(growth.began - 30) <= 1
    assert growth.factor == pytest.approx(3.0, rel=0.05)


def test_too_few_points_say_nothing():
    assert layer_growth(recorded({"a": grown(1.0, 30, 3.0)}, every=15), END) == ()
